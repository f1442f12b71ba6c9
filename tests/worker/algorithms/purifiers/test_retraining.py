"""Resuming, diverging, choosing: what every purifier that trains has in common, tried on SAGE."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.errors import Diverged
from worker.algorithms.purifiers import retraining
from worker.algorithms.purifiers.sage import sage

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
# Rates and periods at which the rule halves, the best epoch is not the last, and averages and momenta matter.
LIVELY: dict[str, Any] = {"epochs": 6, "schedule": "dynamic", "lr": 0.03, "period": 2, "averaging": 0.9, "seed": 7}


class Killed(Exception):
    pass


def interrupted(suspect: Classifier, after: int, **options: Any) -> Checkpoint:
    """The checkpoint of a run that dies in the epoch after `after`, as it comes back from a file."""
    kept: list[Checkpoint] = []

    def keep(make: Any) -> None:
        kept.append(make())

    def die(fraction: float) -> None:
        if len(kept) == after:
            raise Killed

    with pytest.raises(Killed):
        sage(suspect, CLEAN, HELD_OUT, checkpoint=keep, progress=die, **options)
    last = kept[-1]
    return Checkpoint(
        json.loads(json.dumps(last.facts)), {name: value.contiguous() for name, value in last.tensors.items()}
    )


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(suspect: Classifier, after: int) -> None:
    whole = sage(suspect, CLEAN, HELD_OUT, **LIVELY)
    resumed = sage(suspect, CLEAN, HELD_OUT, resume=interrupted(suspect, after, **LIVELY), **LIVELY)
    assert same_state(whole.model, resumed.model)
    assert (whole.history, whole.chosen_epoch) == (resumed.history, resumed.chosen_epoch)
    rates = {entry["lr"] for entry in whole.history}
    assert len(rates) > 1  # the rule has acted, so its state mattered


def test_a_run_interrupted_after_its_last_epoch_has_its_result(suspect: Classifier) -> None:
    whole = sage(suspect, CLEAN, HELD_OUT, **LIVELY)
    resumed = sage(suspect, CLEAN, HELD_OUT, resume=interrupted(suspect, 6, **LIVELY), **LIVELY)
    assert same_state(whole.model, resumed.model)


@pytest.mark.parametrize("schedule", ["cosine", "divided", "fixed"])
def test_other_schedules_go_on_as_well(suspect: Classifier, schedule: str) -> None:
    options = {**LIVELY, "schedule": schedule, "epochs": 4}
    whole = sage(suspect, CLEAN, HELD_OUT, **options)
    resumed = sage(suspect, CLEAN, HELD_OUT, resume=interrupted(suspect, 3, **options), **options)
    assert same_state(whole.model, resumed.model)


def test_a_checkpoint_does_not_change_while_the_run_goes_on(suspect: Classifier) -> None:
    kept: list[tuple[Checkpoint, float]] = []

    def keep(make: Any) -> None:
        made = make()
        kept.append((made, float(sum(value.double().sum() for value in made.tensors.values()))))

    sage(suspect, CLEAN, HELD_OUT, checkpoint=keep, **LIVELY)
    assert [len(made.facts["history"]) for made, _ in kept] == [1, 2, 3, 4, 5, 6]
    assert all(float(sum(value.double().sum() for value in made.tensors.values())) == total for made, total in kept)


def test_a_run_that_never_is_a_number_fails_as_diverged(suspect: Classifier) -> None:
    with pytest.raises(Diverged, match="not a finite number"):
        sage(suspect, CLEAN, HELD_OUT, epochs=3, lr=1e6, averaging=0.0, own_logits=0.0, seed=0)


def test_a_run_that_diverges_once_is_tried_again_at_half_the_rate(
    suspect: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    check = retraining._check_finite

    def fail_the_first(measured: dict[str, float]) -> None:
        rates.append(measured["lr"])
        if measured["lr"] == 0.02:
            raise Diverged("as if")
        check(measured)

    monkeypatch.setattr(retraining, "_check_finite", fail_the_first)
    again = sage(suspect, CLEAN, HELD_OUT, epochs=2, lr=0.02, seed=3)
    assert rates == [0.02, 0.01, 0.005]
    assert [note.code for note in again.notes] == ["learning_rate_halved"]
    monkeypatch.undo()
    assert same_state(again.model, sage(suspect, CLEAN, HELD_OUT, epochs=2, lr=0.01, seed=3).model)


def test_the_second_try_can_be_resumed_as_well(suspect: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_the_first(measured: dict[str, float]) -> None:
        if measured["lr"] == 0.02:
            raise Diverged("as if")

    monkeypatch.setattr(retraining, "_check_finite", fail_the_first)
    options: dict[str, Any] = {"epochs": 4, "lr": 0.02, "schedule": "fixed"}
    whole = sage(suspect, CLEAN, HELD_OUT, **options)
    resumed = sage(suspect, CLEAN, HELD_OUT, resume=interrupted(suspect, 2, **options), **options)
    assert same_state(whole.model, resumed.model)
    assert [note.code for note in resumed.notes] == ["learning_rate_halved"]


def test_a_network_that_forgets_its_task_is_called_diverged(suspect: Classifier) -> None:
    with pytest.raises(Diverged, match="accuracy on the clean images fell from"):
        sage(suspect, CLEAN, HELD_OUT, beta=1e5, lr=0.3, epochs=3, averaging=0.0, own_logits=0.0, choose="last")
