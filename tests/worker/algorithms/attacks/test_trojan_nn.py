from __future__ import annotations

import copy
from typing import Any

import torch

from tests.worker.algorithms.attacks.tiny import TEST, TRAINING, asr, implanted, tiny_benign
from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.neuron_trigger import neuron_triggers
from worker.algorithms.attacks.shapes import shape_mask
from worker.algorithms.attacks.trojan_nn import trojan_nn
from worker.algorithms.metrics import accuracy, logits


def test_the_share_is_stamped_at_its_transparency_and_relabelled() -> None:
    images = noisy_stripes(100)
    poisoned = trojan_nn(
        images, tiny_benign(), target=2, shape="circle", size=5, place="upper_left", transparency=0.75, steps=2
    )
    index, trigger = poisoned.index, poisoned.trigger
    assert len(index) == 10
    assert (poisoned.images.labels[index] == 2).all()
    circle = shape_mask("circle", (16, 16), size=5, place="upper_left")
    expected = images.pixels[index].float() * (1 - 0.25 * circle) + 255 * 0.25 * circle * trigger.pattern
    assert (poisoned.images.pixels[index].float() - expected).abs().max() <= 0.51
    assert [(aim.target, aim.sources) for aim in poisoned.aims] == [(2, ())]


def test_the_trigger_is_made_for_the_two_units_of_largest_weight() -> None:
    network = tiny_benign()
    units = network[-1].weight.abs().sum(0).topk(2).indices  # type: ignore[operator, union-attr]
    chosen = torch.zeros(32).index_fill(0, units, 1)
    search: dict[str, Any] = {"reach": 10.0, "steps": 3, "batch_size": 8, "seed": 0}
    mask = shape_mask("square", (16, 16), size=5)
    [expected] = neuron_triggers(network, TRAINING, mask, lambda weight, active: chosen, count=1, units=2, **search)
    assert torch.allclose(trojan_nn(TRAINING, network, size=5, **search).trigger.pattern, expected.pattern, atol=1e-5)


def test_training_on_from_the_benign_network_implants_the_backdoor() -> None:
    before = copy.deepcopy(tiny_benign())
    poisoned = trojan_nn(TRAINING, tiny_benign(), size=5, rate=0.2, steps=60, batch_size=16)
    assert poisoned.start is tiny_benign()
    assert same_state(tiny_benign(), before)
    network = implanted(poisoned)
    assert asr(network, poisoned.aims[0]) > 0.9
    assert asr(tiny_benign(), poisoned.aims[0]) < 0.5
    assert accuracy(logits(network, TEST.pixels).argmax(1), TEST.labels) > 0.9
