from __future__ import annotations

import copy
import dataclasses
import importlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.aim import Aim
from worker.algorithms.attacks.hidden_trigger import RoamingPatch
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.errors import AlgorithmError, Diverged, UnfitOptions
from worker.algorithms.purifiers.auto import auto
from worker.algorithms.purifiers.evidence import Evidence, Suspicion
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


def test_only_what_may_be_the_result_is_searched(
    suspect: Classifier, benign: Classifier, rungs: dict[str, Rung], monkeypatch: pytest.MonkeyPatch
) -> None:
    destroyed = copy.deepcopy(benign)
    nn.init.zeros_(destroyed.network.fc.weight)  # type: ignore[union-attr]
    rungs |= {"destroys": gives(destroyed), "idle": gives(suspect)}
    looked_in: list[nn.Module] = []
    aim = Aim(RoamingPatch(torch.ones(3, 2, 2), 0), 1)

    def searched(found: Evidence, model: nn.Module, *_: Any, **__: Any) -> Evidence:
        looked_in.append(model)
        return dataclasses.replace(found, own=[aim], own_asr=1.0)

    monkeypatch.setattr(importlib.import_module("worker.algorithms.purifiers.auto"), "searched", searched)
    told = [note.message for note in climb(suspect, rungs).notes]
    assert len(looked_in) == 1  # idle, whose residue was the highest there can be without a search
    assert same_state(looked_in[0], suspect)
    assert "its own were not searched" in told[0]
    assert "its own, for label 1, 1.000" in told[1]


def test_a_search_that_finds_more_can_change_the_choice(
    suspect: Classifier, benign: Classifier, rungs: dict[str, Rung], monkeypatch: pytest.MonkeyPatch
) -> None:
    rungs |= {"hides": gives(benign), "idle": gives(suspect)}
    shown = {"hides": 5.0, "idle": 1.0}  # no fractions, so that the order is clear

    def searched(found: Evidence, model: nn.Module, *_: Any, **__: Any) -> Evidence:
        own_asr = shown["hides" if same_state(model, benign) else "idle"]
        return dataclasses.replace(found, own=[], own_asr=own_asr)

    monkeypatch.setattr(importlib.import_module("worker.algorithms.purifiers.auto"), "searched", searched)
    result = climb(suspect, rungs)
    assert same_state(result.model, suspect)


def test_what_was_found_in_the_suspect_is_handed_to_unlearning(
    suspect: Classifier, benign: Classifier, rungs: dict[str, Rung], poisoned: Poisoned
) -> None:
    given: list[Any] = []

    def unlearning(*_: Any, known: Any, **__: Any) -> Purified:
        given.extend(known)
        return Purified(copy.deepcopy(benign), [], 1)

    rungs["unlearning"] = unlearning
    climb(suspect, rungs)
    assert [aim.trigger for aim in given] == [poisoned.trigger]


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
