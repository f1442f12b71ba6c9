from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import job_profile
from redeem.jobfile import JobFile
from worker.stages.device import environment

torch.set_num_threads(1)
TIMINGS = {"fetch": 0.5, "load": 0.5, "assess_before": 3.0, "purify": 4.0, "assess_after": 1.5, "publish": 0.5}


@pytest.fixture
def example(small_example: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job_profile, "EXAMPLE", small_example)
    return small_example


def asked_for(epochs: int, steps: int) -> JobFile:
    return job_profile.asked_for(job_profile.parse(["--epochs", str(epochs), "--steps", str(steps)]))


def test_as_many_steps_more_are_as_much_work_more(example: Path) -> None:
    cpu = torch.device("cpu")
    few, many, more = (job_profile.heavy_work(asked_for(*words), cpu) for words in ((1, 10), (2, 20), (2, 30)))
    step = (many["assess_before"] - few["assess_before"]) / 10  # folding batch norms and its check do not repeat
    assert more["assess_before"] - many["assess_before"] == pytest.approx(10 * step, rel=0.01)
    assert 0 < few["assess_before"] - 10 * step < 5 * step
    assert 1.3 < many["purify"] / few["purify"] < 2  # finding taps and the last check do not repeat


def test_shares_are_of_the_job_and_of_the_matrix_rate(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: JobFile) -> tuple[Any, Any, dict[str, float]]:
        worker = environment(torch.device("cpu"), "")
        report = SimpleNamespace(verdict=SimpleNamespace(outcome=SimpleNamespace(value="pass")), environment=worker)
        return SimpleNamespace(timings=TIMINGS), report, {"server_start": 1.0, "upload_to_verdict": 12.0}

    monkeypatch.setattr(job_profile, "run", run)
    monkeypatch.setattr(job_profile, "matrix_rate", lambda device: 1e9)
    monkeypatch.setattr(
        job_profile, "heavy_work", lambda job, device: {"assess_before": 6 * 10**8, "purify": 4 * 10**9}
    )
    record_at = example / "record.json"
    assert job_profile.main(["--record", str(record_at)]) == 0
    rows = {row["stage"]: row for row in json.loads(record_at.read_text())["rows"]}
    assert rows["purify"] == {
        "stage": "purify",
        "seconds": 4.0,
        "of_the_job": 0.4,
        "flops": 4 * 10**9,
        "share_of_matrix_rate": 1.0,
    }
    assert rows["assess_before"]["share_of_matrix_rate"] == 0.2
    assert rows["load"] == {"stage": "load", "seconds": 0.5, "of_the_job": 0.05}
