from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.aim import Aim
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.errors import AlgorithmError, Diverged, UnfitOptions
from worker.algorithms.purifiers.auto import auto
from worker.algorithms.purifiers.evidence import Suspicion
from worker.algorithms.purifiers.purified import Purified

CLEAN, HELD_OUT = noisy_stripes(200, seed=41), noisy_stripes(80, seed=42)
STEPS = 10

Rung = Callable[..., Purified]


@pytest.fixture
def rungs(monkeypatch: pytest.MonkeyPatch, poisoned: Poisoned) -> dict[str, Rung]:
    """The ladder's purifiers, to be given by the test. The suspect's trigger is reversed perfectly: among four labels
    Neural Cleanse can flag none."""
    ladder: dict[str, Rung] = {}
    module = importlib.import_module("worker.algorithms.purifiers.auto")
    monkeypatch.setattr(module, "RUNGS", ladder)
    monkeypatch.setattr(module, "suspicion", lambda *_, **__: Suspicion(1.0, (Aim(poisoned.trigger, 0),)))
    return ladder


def gives(model: nn.Module, asked: list[int] | None = None) -> Rung:
    def purify(*_: Any, **__: Any) -> Purified:
        if asked is not None:
            asked.append(1)
        return Purified(copy.deepcopy(model), [], 1)

    return purify


def refuses(error: AlgorithmError) -> Rung:
    def purify(*_: Any, **__: Any) -> Purified:
        raise error

    return purify


def climb(suspect: Classifier, rungs: dict[str, Rung]) -> Purified:
    return auto(suspect, CLEAN, HELD_OUT, ladder=tuple(rungs), steps=STEPS)


def test_an_attempt_that_is_enough_is_the_last(suspect: Classifier, benign: Classifier, rungs: dict[str, Rung]) -> None:
    asked: list[int] = []
    rungs |= {"one": gives(benign), "two": gives(benign, asked)}
    result = climb(suspect, rungs)
    assert [note.code for note in result.notes] == ["auto_chosen"]
    assert not asked


def test_a_backdoor_that_stays_is_seen_without_its_trigger(
    suspect: Classifier, benign: Classifier, rungs: dict[str, Rung]
) -> None:
    rungs |= {"idle": gives(suspect), "works": gives(benign)}
    result = climb(suspect, rungs)
    assert same_state(result.model, benign)
    assert [note.code for note in result.notes] == ["auto_attempt", "auto_chosen"]
    assert re.match(r"idle: lost 0.0\d\d of the held-out accuracy; .* have an ASR of (1|0\.9)", result.notes[0].message)


def test_where_none_is_enough_the_nearest_is_given_back(
    suspect: Classifier, benign: Classifier, rungs: dict[str, Rung]
) -> None:
    destroyed = copy.deepcopy(benign)
    nn.init.zeros_(destroyed.network.fc.weight)  # type: ignore[union-attr]
    rungs |= {"destroys": gives(destroyed), "idle": gives(suspect)}
    result = climb(suspect, rungs)
    assert same_state(result.model, suspect)  # its residue is five times the limit, the other's drop twenty-five times
    assert [note.code for note in result.notes] == ["auto_attempt", "auto_chosen"]


def test_a_rung_that_refuses_is_passed_over(suspect: Classifier, benign: Classifier, rungs: dict[str, Rung]) -> None:
    rungs |= {"refuses": refuses(Diverged("fell over")), "works": gives(benign)}
    result = climb(suspect, rungs)
    assert [note.code for note in result.notes] == ["auto_chosen", "auto_refused"]
    assert "refuses refused: fell over" in result.notes[1].message


def test_progress_is_told_while_an_attempt_is_measured(
    suspect: Classifier, benign: Classifier, rungs: dict[str, Rung]
) -> None:
    """Measuring takes as long as purifying, and a run that tells nothing cannot be cancelled."""
    told: list[float] = []
    rungs |= {"works": gives(benign)}
    auto(suspect, CLEAN, HELD_OUT, ladder=("works",), steps=STEPS, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len({fraction for fraction in told if 0.6 < fraction < 1}) > 20


def test_where_all_refuse_so_does_it(suspect: Classifier, rungs: dict[str, Rung]) -> None:
    rungs |= {"one": refuses(Diverged("first")), "two": refuses(Diverged("second"))}
    with pytest.raises(Diverged, match="first"):
        climb(suspect, rungs)


def test_a_name_that_is_no_rung_is_told(suspect: Classifier) -> None:
    with pytest.raises(UnfitOptions, match="no rung nonsense; rungs are sage, "):
        auto(suspect, CLEAN, HELD_OUT, ladder=("nonsense",))
