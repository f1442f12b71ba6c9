"""The whole of Redeem at once: a server of its own, the worker, a tiny network, and what comes out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redeem.cli import main
from worker.algorithms.architectures.small_resnet import resnet18


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A job on a network of width 4 that was never trained, and noise: enough to go through every stage."""
    torch.manual_seed(0)
    folder = tmp_path / "example"
    folder.mkdir()
    save_file(resnet18(num_classes=2, in_channels=3, width=4).state_dict(), folder / "suspect.safetensors")
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(40) % 2}, folder / "clean.safetensors")
    job = {
        "model": {
            "file": "suspect.safetensors",
            "architecture": {"name": "paper/resnet18"},
            "preprocessing": {"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]},
        },
        "clean": {"file": "clean.safetensors"},
        "detectors": [{"name": "neural_cleanse", "options": {"steps": 10}}],
    }
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def test_the_demo_leaves_weights_report_and_pictures(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # on so small a network, threads mostly wait for each other
    result = tmp_path / "result"
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--example", str(example), "--out", str(result)])
    captured = capsys.readouterr()
    assert exit_.value.code in {0, 1, 2}, captured.err
    report = json.loads((result / "report.json").read_text())
    assert f"verdict: {report['verdict']['outcome']}" in captured.out
    assert exit_.value.code == {"pass": 0, "fail": 1, "inconclusive": 2}[report["verdict"]["outcome"]]
    assert "not measured" in captured.out, "there are no triggered images"
    for stage in ("fetch", "load", "assess_before", "purify", "assess_after", "judge", "publish"):
        assert f"running {stage}" in captured.err
    announced = {artifact["name"]: artifact for artifact in report["artifacts"]}
    for name in [name for name, artifact in announced.items() if artifact["media_type"].startswith("image/")]:
        assert hashlib.sha256((result / name).read_bytes()).hexdigest() == announced[name]["sha256"]
    suspect, purified = load_file(example / "suspect.safetensors"), load_file(result / "purified.safetensors")
    assert {name: value.shape for name, value in purified.items()} == {n: v.shape for n, v in suspect.items()}


def test_without_the_example_the_demo_says_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--example", str(tmp_path)])
    assert exit_.value.code == 2
    assert "job.json" in capsys.readouterr().err
