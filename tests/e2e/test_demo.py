"""The README's first command, on the real example: minutes of work, so only on demand (`pytest -m slow`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10-badnets"


@pytest.mark.slow
def test_the_demo_finds_the_backdoor_and_removes_it(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "redeem", "demo", "--out", str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    before, after = report["before"], report["after"]
    assert before["neural_cleanse"]["index"] > 2
    assert before["neural_cleanse"]["flagged"] == [0]
    assert before["asr"] >= 0.97
    assert after["asr"] <= 0.10
    assert before["mpa"] - after["mpa"] <= 0.03
    assert after["neural_cleanse"]["flagged"] == []
    suspect, purified = load_file(EXAMPLE / "suspect.safetensors"), load_file(tmp_path / "purified.safetensors")
    assert {key: (value.shape, value.dtype) for key, value in suspect.items()} == {
        key: (value.shape, value.dtype) for key, value in purified.items()
    }
    assert any(not torch.equal(suspect[key], purified[key]) for key in suspect)
    assert (tmp_path / "reversed-trigger-0-and-real.svg").is_file()
