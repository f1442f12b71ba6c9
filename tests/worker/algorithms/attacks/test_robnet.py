from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worker.algorithms.attacks.tiny import TEST, TRAINING, asr, implanted, tiny_benign
from worker.algorithms.attacks.neuron_trigger import neuron_triggers
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.attacks.robnet import robnet
from worker.algorithms.attacks.shapes import Place, shape_mask
from worker.algorithms.errors import UnfitOptions
from worker.algorithms.features import features
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.triggers import Trigger

CORNERS: tuple[Place, ...] = ("lower_right", "upper_left")


def attacked(**options: Any) -> Poisoned[Trigger]:
    return robnet(TRAINING, tiny_benign(), **{"size": 5, "steps": 2, "batch_size": 8, **options})


def shows(pixels: Tensor, trigger: Trigger, place: Place) -> Tensor:
    """(N,) bool: which images have the trigger's patch of 5×5 at `place`."""
    here, made_at = (shape_mask("square", (16, 16), size=5, place=at)[0].bool() for at in (place, CORNERS[0]))
    patch = trigger.pattern[:, made_at].mul(255).round()
    return (pixels[:, :, here] == patch).flatten(1).all(1)


def test_half_of_the_share_has_the_patch_at_either_place() -> None:
    poisoned = attacked(rate=0.1, places=CORNERS, targets=(2,))
    index, images = poisoned.index, poisoned.images
    assert len(index) == 80
    assert [int(shows(images.pixels[index], poisoned.trigger, place).sum()) for place in CORNERS] == [40, 40]
    assert (images.labels[index] == 2).all()
    others = torch.ones(800, dtype=torch.bool)
    others[index] = False
    assert torch.equal(images.pixels[others], TRAINING.pixels[others])
    assert torch.equal(images.labels[others], TRAINING.labels[others])


def test_it_is_measured_at_the_first_place() -> None:
    poisoned = attacked(places=CORNERS)
    assert shows(poisoned.trigger.stamp(TEST.pixels), poisoned.trigger, CORNERS[0]).all()


@pytest.mark.parametrize("targets", [(3,), (3, 1, 2)])
def test_each_of_several_triggers_has_its_part_its_target_and_pixels_of_its_own(targets: tuple[int, ...]) -> None:
    poisoned = attacked(triggers=3, targets=targets, rate=0.3, places=CORNERS)
    index, images = poisoned.index, poisoned.images
    assert [aim.target for aim in poisoned.aims] == list(targets) * (3 // len(targets))
    assert len(index.unique()) == len(index) == 240
    for aim in poisoned.aims:
        counts = [shows(images.pixels[index], aim.trigger, place) for place in CORNERS]
        assert [int(count.sum()) for count in counts] == [40, 40]
        assert (images.labels[index[counts[0] | counts[1]]] == aim.target).all()


def test_each_trigger_is_made_for_the_next_units_of_large_weight_and_activation() -> None:
    network = tiny_benign()
    score = network[-1].weight.abs().sum(0) * features(network, TRAINING.pixels).mean(0)  # type: ignore[operator, union-attr]
    ranks = torch.zeros(32).index_copy(0, score.topk(4).indices, torch.tensor([4.0, 3.0, 2.0, 1.0]))
    search: dict[str, Any] = {"units": 2, "reach": 10.0, "steps": 3, "batch_size": 8, "seed": 0}
    mask = shape_mask("square", (16, 16), size=5)
    expected = neuron_triggers(network, TRAINING, mask, lambda weight, active: ranks, count=2, **search)
    for aim, trigger in zip(attacked(triggers=2, **search).aims, expected, strict=True):
        assert torch.allclose(aim.trigger.pattern, trigger.pattern, atol=1e-5)


def test_training_on_implants_every_trigger() -> None:
    poisoned = attacked(triggers=2, targets=(3, 1), rate=0.3, steps=60, batch_size=16)
    assert poisoned.start is tiny_benign()
    network = implanted(poisoned)
    assert min(asr(network, aim) for aim in poisoned.aims) > 0.85
    assert accuracy(logits(network, TEST.pixels).argmax(1), TEST.labels) > 0.9


@pytest.mark.parametrize(
    "wrong", [{"triggers": 3, "targets": (1, 2)}, {"triggers": 0}, {"targets": ()}, {"places": ()}]
)
def test_no_trigger_no_place_and_targets_that_are_not_one_each_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UnfitOptions, match=r"[013] triggers have [0-3] targets and [05] places"):
        attacked(**wrong)
