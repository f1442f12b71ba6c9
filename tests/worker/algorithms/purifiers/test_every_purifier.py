"""What every purifier promises, over the whole catalogue: a new one is picked up here."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from redeem.options import DETECTOR_OPTIONS, PURIFIER_OPTIONS
from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.metrics import accuracy, attack_success, logits
from worker.algorithms.purifiers import PURIFIERS, Purified

CLEAN, HELD_OUT, TEST = noisy_stripes(700, seed=21), noisy_stripes(60, seed=22), noisy_stripes(400, seed=23)

# A mirrored stripe is of another class, which only soft labels forgive.
SUITED: dict[str, dict[str, Any]] = {
    "sage": {},
    "fine_tuning": {"augmentation": "crop"},
    "nad": {"augmentation": "crop"},
}
# A stubborn backdoor, and few steps on few small images: plain fine-tuning leaves all of it.
HIGHEST_ASR = {"sage": 0.6, "fine_tuning": 1.0, "nad": 0.6}

every_purifier = pytest.mark.parametrize("name", PURIFIERS)


@pytest.fixture(scope="module")
def purified_by(suspect: Classifier) -> Callable[[str], Purified]:
    done: dict[str, Purified] = {}

    def purify(name: str) -> Purified:
        if name not in done:
            done[name] = PURIFIERS[name](suspect, CLEAN, HELD_OUT, seed=0, **SUITED[name])
        return done[name]

    return purify


@every_purifier
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
def test_keys_shapes_and_dtypes_stay(name: str, purified_by: Callable[[str], Purified], suspect: Classifier) -> None:
    describe = lambda model: [(k, v.shape, v.dtype) for k, v in model.state_dict().items()]  # noqa: E731
    assert describe(purified_by(name).model) == describe(suspect)


@every_purifier
def test_the_suspect_is_not_changed(name: str, suspect: Classifier) -> None:
    before = copy.deepcopy(suspect)
    PURIFIERS[name](suspect, CLEAN, HELD_OUT, seed=1, epochs=1, lr=0.01)
    assert same_state(suspect, before)
    assert not suspect.training
    assert not any(module._forward_hooks for module in suspect.modules())
    assert all(parameter.grad is None for parameter in suspect.parameters())


@every_purifier
def test_the_seed_decides_to_the_bit(name: str, suspect: Classifier) -> None:
    one, same, other = (
        PURIFIERS[name](suspect, CLEAN, HELD_OUT, seed=seed, epochs=1, lr=0.01).model for seed in (3, 3, 4)
    )
    assert same_state(one, same)
    assert not same_state(one, other)


@every_purifier
def test_the_result_is_in_evaluation_mode_like_the_suspect(name: str, purified_by: Callable[[str], Purified]) -> None:
    model = purified_by(name).model
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@every_purifier
def test_progress_is_told_and_may_stop_the_run(name: str, suspect: Classifier) -> None:
    told: list[float] = []

    class Stop(Exception):
        pass

    def listen(fraction: float) -> None:
        told.append(fraction)
        raise Stop

    with pytest.raises(Stop):
        PURIFIERS[name](suspect, CLEAN, HELD_OUT, seed=0, progress=listen)
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
    }  # the job's or the pipeline's, not the caller's options
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters.values()
        of_function = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in own}
        of_wire = options[name]().model_dump(exclude={"preset"})  # type: ignore[attr-defined]
        assert of_wire == of_function
