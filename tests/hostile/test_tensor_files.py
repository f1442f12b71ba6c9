"""safetensors files of strangers: every trick has its own code, and none costs memory or time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.hostile.costs import within
from tests.hostile.tensor_files import F32, TRICKS, tensor_file
from worker.stages.bundle import read_bundle
from worker.stages.errors import StageError
from worker.stages.refusals import REFUSALS
from worker.stages.weights import read_weights


@pytest.mark.parametrize("trick", TRICKS)
def test_every_trick_is_refused_by_its_code(tmp_path: Path, trick: str) -> None:
    content, code = TRICKS[trick]
    path = tmp_path / "weights"
    path.write_bytes(content)
    with within(memory=3 * len(content) + 32 * 2**20), pytest.raises(StageError) as caught:
        read_weights(path)
    assert caught.value.code == code
    assert caught.value.hint
    assert len(str(caught.value)) < 1_000
    assert str(caught.value).isprintable()


def test_every_rule_has_a_trick() -> None:
    """`safetensors_rejected` is for what the library may find and we do not."""
    rules = {code for code in REFUSALS if code.startswith("safetensors_")} - {"safetensors_rejected"}
    assert rules - {code for _, code in TRICKS.values()} == set()


@pytest.mark.parametrize("trick", ["nothing times 2**62", "a name twice", "a hole", "bytes behind the last tensor"])
def test_a_bundle_of_tensors_is_checked_alike(tmp_path: Path, trick: str) -> None:
    content, code = TRICKS[trick]
    (tmp_path / "bundle").write_bytes(content)
    with pytest.raises(StageError) as caught:
        read_bundle(tmp_path / "bundle", size=(8, 8), channels="RGB", num_classes=2)
    assert caught.value.code == code


def test_what_breaks_no_rule_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    header = {"__metadata__": {"format": "pt", "note": "näh"}, "module.layer1.0.conv1.weight": F32}
    path.write_bytes(tensor_file(header))
    assert torch.equal(
        read_weights(path).tensors["module.layer1.0.conv1.weight"], torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    )
