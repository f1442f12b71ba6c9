"""What every purifier promises, over the whole catalogue: a new one is picked up here."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from redeem.detector_options import DETECTOR_OPTIONS
from redeem.options import PURIFIER_OPTIONS
from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.metrics import accuracy, attack_success, logits
from worker.algorithms.purifiers import PURIFIERS, Purified

CLEAN, HELD_OUT, TEST = noisy_stripes(700, seed=21), noisy_stripes(60, seed=22), noisy_stripes(400, seed=23)
FEW = noisy_stripes(96, seed=24)

# A mirrored stripe is of another class, which only soft labels forgive.
SUITED: dict[str, dict[str, Any]] = {
    "sage": {},
    "fine_tuning": {"epochs": 10, "augmentation": "crop"},
    "nad": {"augmentation": "crop"},
    "pruning": {},
    "fine_pruning": {"epochs": 5, "augmentation": "crop"},
    "anp": {"steps": 24, "augmentation": "crop", "max_drop": 0.02},
    "clp": {"u": 2.0},
    "i_bau": {"epochs": 3, "augmentation": "crop"},
    "unlearning": {"epochs": 2, "steps": 40, "augmentation": "crop"},
}
# A stubborn backdoor, and few steps on few small images: plain fine-tuning leaves all of it. So does pruning the last
# stage, of which four channels are enough for four classes.
HIGHEST_ASR = {
    "sage": 0.6,
    "fine_tuning": 1.0,
    "nad": 0.6,
    "pruning": 1.0,
    "fine_pruning": 1.0,
    "anp": 0.3,
    "clp": 0.3,
    "i_bau": 0.3,
    "unlearning": 0.3,
}

# Options of a run of a moment.
ONE_EPOCH: dict[str, Any] = {"epochs": 1, "lr": 0.01}
QUICK: dict[str, dict[str, Any]] = {
    "sage": ONE_EPOCH,
    "fine_tuning": ONE_EPOCH,
    "nad": {**ONE_EPOCH, "teacher_epochs": 1},
    "pruning": {},
    "fine_pruning": ONE_EPOCH,
    "anp": {"steps": 3},
    "clp": {"u": 2.0},
    "ft_sam": ONE_EPOCH,
    "fst": ONE_EPOCH,
    "mcr": {**ONE_EPOCH, "end_epochs": 1, "points": (0.5,)},
    "i_bau": ONE_EPOCH,
    "unlearning": {**ONE_EPOCH, "steps": 10},
}
NOT_RANDOM = {"pruning", "clp"}

every_purifier = pytest.mark.parametrize("name", QUICK)
those_measured = pytest.mark.parametrize("name", SUITED)


def test_every_purifier_is_tried_here() -> None:
    assert QUICK.keys() == PURIFIERS.keys() - {"auto"}  # which is others, one after another: test_auto.py


@pytest.fixture(scope="module")
def purified_by(suspect: Classifier) -> Callable[[str], Purified]:
    done: dict[str, Purified] = {}

    def purify(name: str) -> Purified:
        if name not in done:
            done[name] = PURIFIERS[name](suspect, CLEAN, HELD_OUT, seed=0, **SUITED[name])
        return done[name]

    return purify


@those_measured
def test_the_backdoor_fades_and_the_accuracy_stays(
    name: str, purified_by: Callable[[str], Purified], suspect: Classifier, poisoned: Poisoned
) -> None:
    stamped = Images(poisoned.trigger.stamp(TEST.pixels), TEST.labels)
    measured = []
    for model in (suspect, purified_by(name).model):
        success = attack_success(logits(model, stamped.pixels).argmax(1), stamped, torch.zeros(400, dtype=torch.int64))
        assert success is not None
        measured.append((accuracy(logits(model, TEST.pixels).argmax(1), TEST.labels), success.asr))
    (mpa_before, asr_before), (mpa_after, asr_after) = measured
    assert asr_before > 0.9
    assert asr_after <= HIGHEST_ASR[name]
    assert mpa_after > mpa_before - 0.05


@every_purifier
def test_the_suspect_is_not_changed_and_the_result_is_like_it(name: str, suspect: Classifier) -> None:
    before = copy.deepcopy(suspect)
    model = PURIFIERS[name](suspect, FEW, HELD_OUT, seed=1, **QUICK[name]).model
    describe = lambda network: [(k, v.shape, v.dtype) for k, v in network.state_dict().items()]  # noqa: E731
    assert describe(model) == describe(suspect)
    assert not any(module.training or module._forward_hooks for module in model.modules())
    assert same_state(suspect, before)
    assert not suspect.training
    assert not any(module._forward_hooks for module in suspect.modules())
    assert all(parameter.grad is None for parameter in suspect.parameters())


@every_purifier
def test_the_seed_decides_to_the_bit(name: str, suspect: Classifier) -> None:
    one, same, other = (PURIFIERS[name](suspect, FEW, HELD_OUT, seed=seed, **QUICK[name]).model for seed in (3, 3, 4))
    assert same_state(one, same)
    assert same_state(one, other) == (name in NOT_RANDOM)


@every_purifier
def test_progress_is_told_and_may_stop_the_run(name: str, suspect: Classifier) -> None:
    told: list[float] = []

    class Stop(Exception):
        pass

    def listen(fraction: float) -> None:
        told.append(fraction)
        raise Stop

    with pytest.raises(Stop):
        PURIFIERS[name](suspect, FEW, HELD_OUT, seed=0, progress=listen, **QUICK[name])
    assert len(told) == 1
    assert 0 < told[0] <= 1


@pytest.mark.parametrize(
    ("functions", "options"),
    [(PURIFIERS, PURIFIER_OPTIONS), (DETECTORS, DETECTOR_OPTIONS)],
    ids=["purifiers", "detectors"],
)
def test_the_wire_and_the_functions_agree_on_names_and_defaults(
    functions: dict[str, Callable[..., object]], options: dict[str, type]
) -> None:
    assert functions.keys() == options.keys()
    own = {
        "seed",
        "progress",
        "num_classes",
        "resume",
        "checkpoint",
        "known",
        "tap",
        "at_once",
    }  # the job's, the pipeline's or a library user's, not the client's options
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters.values()
        of_function = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in own}
        of_wire = options[name]().model_dump(exclude={"preset"})  # type: ignore[attr-defined]
        assert of_wire == of_function
