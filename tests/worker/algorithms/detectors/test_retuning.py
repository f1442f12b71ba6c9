from __future__ import annotations

import copy

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.aim import Aim
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.detectors.retuning import Retuning, _with_triggered, notes, retuning, unrelated
from worker.algorithms.errors import UnusableImages
from worker.algorithms.triggers import Trigger

CLEAN, TESTED = noisy_stripes(64, seed=5), noisy_stripes(80, seed=6)


def asleep(suspect: Classifier) -> Classifier:
    """The suspect with its target's logit pushed down: nothing is removed, and no triggered image gets there."""
    model = copy.deepcopy(suspect)
    with torch.no_grad():
        model.network.fc.bias[0] -= 30
    return model


def test_a_backdoor_that_sleeps_comes_back_and_the_control_does_not(
    suspect: Classifier, benign: Classifier, poisoned: Poisoned[Trigger]
) -> None:
    options = {"epochs": 3, "batch_size": 23, "lr": 0.05}
    sleeping = retuning(asleep(suspect), CLEAN, TESTED, poisoned.aims[0], **options)  # type: ignore[arg-type]
    gone = retuning(benign, CLEAN, TESTED, poisoned.aims[0], **options)  # type: ignore[arg-type]
    assert sleeping.before < 0.1
    assert sleeping.after > 0.6
    assert sleeping.comeback > 0.5
    assert abs(gone.comeback) < 0.3
    assert [note.code for note in notes(sleeping)] == ["backdoor_comes_back"]
    assert notes(gone) == []


def test_the_seed_decides_and_the_model_is_left_as_it_was(suspect: Classifier, poisoned: Poisoned[Trigger]) -> None:
    model = copy.deepcopy(suspect)
    one, same = (retuning(model, CLEAN, TESTED, poisoned.aims[0], epochs=1) for _ in range(2))
    assert one == same
    assert same_state(model, suspect)


def test_a_few_images_of_other_classes_get_the_trigger_and_its_label(poisoned: Poisoned[Trigger]) -> None:
    images = _with_triggered(CLEAN, poisoned.aims[0], 5, 0)
    assert torch.equal(images.pixels[:64], CLEAN.pixels)
    assert images.labels[64:].tolist() == [0] * 5
    stamped = poisoned.trigger.stamp(CLEAN.pixels[CLEAN.labels != 0])
    for pixels in images.pixels[64:]:
        assert (stamped == pixels).flatten(1).all(1).sum() == 1


def test_the_control_is_as_large_elsewhere_and_of_other_colours(poisoned: Poisoned[Trigger]) -> None:
    trigger = poisoned.trigger
    control = unrelated(trigger, 0)
    assert control.mask.sum() == trigger.mask.sum()
    assert not (control.mask * trigger.mask).any()
    assert not torch.equal(control.pattern, unrelated(trigger, 1).pattern)


def test_images_of_the_target_alone_cannot_serve(suspect: Classifier, poisoned: Poisoned[Trigger]) -> None:
    only = CLEAN[CLEAN.labels == 0]
    with pytest.raises(UnusableImages, match="stamped"):
        retuning(suspect, only, TESTED, Aim(poisoned.trigger, 0))
    with pytest.raises(UnusableImages, match="measured"):
        retuning(suspect, CLEAN, only, Aim(poisoned.trigger, 0))


@pytest.mark.parametrize(
    ("found", "codes"),
    [
        (Retuning(0.1, 0.9, 0.0, 0.1), ["backdoor_comes_back"]),
        (Retuning(0.1, 0.9, 0.0, 0.9), []),  # any trigger is learned as fast
        (Retuning(0.1, 0.4, 0.0, 0.0), []),
        (Retuning(0.9, 0.9, 0.0, 0.0), []),  # it was never gone
    ],
)
def test_notes(found: Retuning, codes: list[str]) -> None:
    assert [note.code for note in notes(found)] == codes
