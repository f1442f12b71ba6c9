"""PyTorch checkpoints of strangers, and what is sent in their place: nothing runs, and every trick has its own code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.hostile.checkpoints import BEFORE, INSIDE, STATE, archive, calling, members, pickled, saved
from tests.hostile.costs import within
from worker.stages.checkpoint import convert
from worker.stages.errors import ReadingTooLarge, StageError
from worker.stages.kind import CONVERTED, kind_of
from worker.stages.refusals import REFUSALS
from worker.stages.weights import read_tensors, read_weights


def converted(path: Path) -> dict[str, torch.Tensor]:
    """What `read_weights` does, with the child's part done here."""
    assert kind_of(path) == "checkpoint"
    out = path.with_name("out")
    out.mkdir(exist_ok=True)
    assert convert(path, out)["scan"] == []
    return read_tensors(out / CONVERTED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.mark.parametrize("trick", BEFORE)
def test_what_is_refused_before_torch_sees_it(path: Path, trick: str) -> None:
    content, code = BEFORE[trick]
    path.write_bytes(content)
    with within(memory=8 * 2**20), pytest.raises(StageError) as caught:
        kind_of(path)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("trick", INSIDE)
def test_what_torch_could_load_and_we_refuse(path: Path, trick: str) -> None:
    content, code = INSIDE[trick]
    path.write_bytes(content)
    with within(memory=32 * 2**20), pytest.raises(StageError) as caught:
        converted(path)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.hint
    assert str(caught.value).isprintable()


def test_every_rule_has_a_trick() -> None:
    rules = {code for code in REFUSALS if code.startswith(("format_", "checkpoint_"))} - {"format_onnx"}
    assert rules - {code for _, code in (BEFORE | INSIDE).values()} == set()


@pytest.mark.parametrize("trick", calling(Path()))
def test_nothing_of_a_pickle_runs(tmp_path: Path, path: Path, trick: str) -> None:
    path.write_bytes(calling(tmp_path / "canary")[trick])
    with pytest.raises(StageError) as caught:
        converted(path)
    assert caught.value.code.startswith(("checkpoint_", "format_"))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
def test_a_state_dict_is_taken_plain_or_nested_once(path: Path, nest: str | None) -> None:
    transposed = {**STATE, "tied": STATE["a.bias"], "t": torch.arange(24.0).view(1, 2, 3, 4).permute(0, 3, 1, 2)}
    path.write_bytes(saved(transposed if nest is None else {nest: transposed, "epoch": 3, "best": 0.5}))
    read = converted(path)
    assert read.keys() == transposed.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in transposed.items())


def test_its_numbers_are_checked_like_those_of_any_file(path: Path) -> None:
    path.write_bytes(saved({"a": torch.tensor([1.0, torch.inf])}))
    with pytest.raises(StageError) as caught:
        converted(path)
    assert caught.value.code == "weights_not_finite"


# Through the child: it imports torch, so a few ---------------------------------------------------------------------


def test_no_variable_makes_the_child_run_a_pickle(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_SERIALIZATION_DEBUG"):
        monkeypatch.setenv(name, "1")
    path.write_bytes(calling(tmp_path / "canary")["a checkpoint that calls by name"])
    with pytest.raises(StageError, match=r"its pickle calls 'posix\.system'") as caught:
        read_weights(path)
    assert caught.value.code == "checkpoint_forbidden_global"
    assert not (tmp_path / "canary").exists()


def test_a_pickle_that_asks_for_a_tebibyte_gets_none(path: Path) -> None:
    """bytearray is on torch's list, and a number is nothing that a list of names refuses."""
    asked = b"cbuiltins\nbytearray\n" + b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R"
    path.write_bytes(pickled(asked))
    with pytest.raises(ReadingTooLarge):
        read_weights(path)


def test_big_endian_numbers_are_turned(path: Path) -> None:
    swapped = STATE["a.weight"].numpy().astype(">f4").tobytes()
    kept = members(saved({"a": STATE["a.weight"]}), byteorder=b"big", data_0=swapped)
    path.write_bytes(archive(kept))
    assert torch.equal(converted(path)["a"], STATE["a.weight"])
