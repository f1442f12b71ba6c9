"""`redeem purify` against a server whose worker is a thread of this test."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from redeem.cli import main
from redeem.cli.purify import key_values, preprocessing
from redeem.client import Client
from redeem.contract import Outcome
from redeem.local.server import Address


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("verdict", "expected"), [(Outcome.passed, 0), (Outcome.failed, 1)])
def test_one_command_from_the_suspect_to_the_verdict(
    server: Address,
    files: Path,
    complete: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verdict: Outcome,
    expected: int,
) -> None:
    before = set()
    with Client(server.url, server.key) as client:
        before = {job.id for job in client.jobs(limit=200)}

    def work() -> None:
        with Client(server.url, server.key) as client:
            while not (new := [job for job in client.jobs(limit=5) if job.id not in before]):
                pass
            complete(new[0].id, verdict)

    worker = Thread(target=work)
    worker.start()
    monkeypatch.chdir(files)
    command = (
        "purify suspect.safetensors --architecture paper/resnet18 --classes 10 --clean clean.zip "
        "--architecture-option width=24 --mean .49,.48,.45 --std .25,.24,.26 --size 32 "
        "--triggered clean.zip --target 0 --purifier sage --option beta=100 --seed 3 "
        "--out purified.safetensors --report report.json --html report.html --json"
    )
    with pytest.raises(SystemExit) as exit_:
        main(command.split())
    worker.join()
    assert exit_.value.code == expected
    out = capsys.readouterr().out
    assert json.loads(out)["verdict"]["outcome"] == verdict
    assert (files / "purified.safetensors").stat().st_size == 256 * 20_000
    assert json.loads((files / "report.json").read_text())["job"] == json.loads(out)["job"]
    assert (files / "report.html").exists()
    with Client(server.url, server.key) as client:
        job = client.get(json.loads(out)["job"])
    assert (job.purifier.options["beta"], job.seed, job.triggered is None) == (100, 3, False)


def test_values_are_json_where_they_can_be() -> None:
    pairs = ["width=24", "beta=3e2", "pretrained=false", "preset=paper", "path=a=b"]
    expected = {"width": 24, "beta": 300.0, "pretrained": False, "preset": "paper", "path": "a=b"}
    assert key_values(pairs, "--option") == expected


def test_one_value_of_normalisation_means_grey_images() -> None:
    grey = preprocessing("28,30", "0.13", "0.31")
    assert (grey.channels, grey.size, grey.mean) == ("L", (28, 30), [0.13])
    assert preprocessing("32", None, None).std == [1.0, 1.0, 1.0]
