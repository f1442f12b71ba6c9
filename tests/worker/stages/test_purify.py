"""The glue around a purifier: what it gets, and what becomes of its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from redeem.contract import MethodRequest
from tests.worker import lab
from tests.worker.stages.test_load import loaded_from
from worker.algorithms.checkpoint import Checkpoint, keep_nothing
from worker.algorithms.errors import Diverged
from worker.algorithms.purifiers import PURIFIERS, Purified
from worker.algorithms.purifiers.sage import sage
from worker.algorithms.training import ignore
from worker.stages.purify import purify


def test_sage_gives_new_weights_under_the_files_names(tmp_path: Path, suspect: nn.Module) -> None:
    sent = lab.weights_file(suspect, prefix="module.")
    inputs, heard = loaded_from(tmp_path, sent), list[float]()
    kept = purify(inputs, MethodRequest(name="sage", options={"epochs": 2}), seed=0, progress=heard.append)
    assert list(kept.tensors) == [f"module.{key}" for key in inputs.loaded.dtypes]
    assert kept.facts["chosen_epoch"] in (1, 2)
    assert [entry["epoch"] for entry in kept.facts["history"]] == [1, 2]
    assert heard == [0.5, 1.0]
    for key, tensor in suspect.state_dict().items():  # the suspect is as it was
        assert torch.equal(inputs.loaded.network.state_dict()[key], tensor)


def test_options_and_seed_reach_the_purifier(tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def spy(model: nn.Module, *_: Any, **options: Any) -> Purified:
        given.update(options)
        return Purified(model, [], 0)

    monkeypatch.setitem(PURIFIERS, "sage", spy)
    options = {"preset": "paper", "beta": 3000.0}
    purify(loaded_from(tmp_path, weights), MethodRequest(name="sage", options=options), seed=4, progress=ignore)
    assert given == {"beta": 3000.0, "seed": 4, "progress": ignore, "resume": None, "checkpoint": keep_nothing}


def test_numbers_that_are_not_finite_never_leave(
    tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruined(model: nn.Module, *_: Any, **__: Any) -> Purified:
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
        return Purified(model, [], 1)

    monkeypatch.setitem(PURIFIERS, "sage", ruined)
    with pytest.raises(Diverged):
        purify(loaded_from(tmp_path, weights), MethodRequest(name="sage"), seed=0, progress=ignore)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_a_batch_that_the_memory_does_not_hold_is_halved_and_told(
    tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried: list[int] = []

    def hungry(model: nn.Module, *_: Any, batch_size: int, **__: Any) -> Purified:
        tried.append(batch_size)
        if batch_size > 16:
            raise error
        return Purified(model, [], 1)

    monkeypatch.setitem(PURIFIERS, "sage", hungry)
    request = MethodRequest(name="sage", options={"batch_size": 64})
    kept = purify(loaded_from(tmp_path, weights), request, seed=0, progress=ignore)
    assert tried == [64, 32, 16]
    assert [(note["code"], "16 images" in note["message"]) for note in kept.facts["notes"]] == [("smaller_batch", True)]


def test_a_run_with_half_the_batch_is_gone_on_with_as_such(
    tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, checkpoints = loaded_from(tmp_path, weights), list[Checkpoint]()
    request = MethodRequest(name="sage", options={"epochs": 4, "batch_size": 64})

    def keep(make: Callable[[], Checkpoint]) -> None:
        checkpoints.append(make())

    def hungry(*arguments: Any, batch_size: int, **options: Any) -> Purified:
        if batch_size > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sage(*arguments, batch_size=batch_size, **options)

    monkeypatch.setitem(PURIFIERS, "sage", hungry)
    uninterrupted = purify(inputs, request, seed=0, progress=ignore, checkpoint=keep)
    monkeypatch.setitem(PURIFIERS, "sage", sage)  # the next worker has more memory
    again = purify(inputs, request, seed=0, progress=ignore, resume=checkpoints[1])
    assert again.facts == uninterrupted.facts
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in uninterrupted.tensors.items())


def test_a_memory_that_holds_no_batch_is_an_error(
    tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def insatiable(*_: Any, batch_size: int, **__: Any) -> Purified:
        tried.append(batch_size)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(PURIFIERS, "sage", insatiable)
    request = MethodRequest(name="sage", options={"batch_size": 32})
    with pytest.raises(torch.OutOfMemoryError):
        purify(loaded_from(tmp_path, weights), request, seed=0, progress=ignore)
    assert tried == [32, 16, 8]


def test_other_errors_are_not_tried_again(tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, batch_size: int, **__: Any) -> Purified:
        raise RuntimeError("shapes do not match")

    monkeypatch.setitem(PURIFIERS, "sage", broken)
    request = MethodRequest(name="sage", options={"batch_size": 32})
    with pytest.raises(RuntimeError, match="shapes"):
        purify(loaded_from(tmp_path, weights), request, seed=0, progress=ignore)
