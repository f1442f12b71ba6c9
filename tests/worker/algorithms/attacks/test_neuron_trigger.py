from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.neuron_trigger import neuron_triggers
from worker.algorithms.data import as_float
from worker.algorithms.errors import UnfitOptions
from worker.algorithms.triggers import Trigger

IMAGES = noisy_stripes(64, size=8)
OUTGOING = torch.tensor([1.0, 2.0, 6.0, 3.0, 5.0, 4.0])  # by unit; unit 2, the first, is dead


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.algorithms.precision.has_fast_bfloat16", lambda device: False)


def linear_units() -> nn.Sequential:
    """Six units that are linear in the pixels, above zero for any image, but unit 2."""
    generator = torch.Generator().manual_seed(1)
    units, head = nn.Linear(3 * 8 * 8, 6), nn.Linear(6, 4)
    units.weight.data = torch.randn(units.weight.shape, generator=generator)
    units.bias.data = torch.full((6,), 150.0)
    units.bias.data[2] = -1e4
    head.weight.data = OUTGOING / 4 * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    return nn.Sequential(nn.Flatten(), units, nn.ReLU(), head).eval()


def lower_half() -> Tensor:
    mask = torch.zeros(1, 8, 8)
    mask[:, 4:] = 1
    return mask


def by_weight(weight: Tensor, activation: Tensor) -> Tensor:
    return weight


def made(network: nn.Module, mask: Tensor, **options: Any) -> list[Trigger]:
    options = {"count": 1, "units": 1, "reach": 100.0, "steps": 60, "batch_size": 8, "seed": 0, **options}
    return neuron_triggers(network, IMAGES, mask, options.pop("score", by_weight), **options)


@pytest.mark.parametrize("opacity", [1.0, 0.3])
def test_pixels_follow_the_signs_of_the_weights_of_the_best_live_units(opacity: float) -> None:
    """What drives a linear unit up most is white where its weights are positive and black where they are negative."""
    network, mask = linear_units(), lower_half() * opacity
    found = made(network, mask, count=2)
    for trigger, unit in zip(found, (4, 5), strict=True):
        expected = (network[1].weight[unit].view(3, 8, 8) > 0) * (mask > 0)
        assert torch.equal(trigger.pattern, expected.float())
        assert torch.equal(trigger.mask, mask)


def test_several_units_are_driven_together() -> None:
    network = linear_units()
    [trigger] = made(network, lower_half(), units=2, reach=1e4)
    together = network[1].weight[4] + network[1].weight[5]  # goals are nearly equal, 150 and a little each
    clear = (together.view(3, 8, 8).abs() > 0.5) * (lower_half() > 0)
    assert torch.equal(trigger.pattern[clear], (together.view(3, 8, 8)[clear] > 0).float())


def test_a_goal_within_reach_is_reached_and_not_passed() -> None:
    network = linear_units()
    [trigger] = made(network, torch.ones(1, 8, 8), reach=1.1, steps=150)
    usual = network[:3](as_float(IMAGES.pixels))[:, 4].max()
    assert network[:3](trigger.pattern[None])[0, 4].item() == pytest.approx(1.1 * usual.item(), rel=0.02)


def test_the_score_is_told_weights_and_mean_activations() -> None:
    told: list[Tensor] = []

    def score(weight: Tensor, activation: Tensor) -> Tensor:
        told.extend([weight, activation])
        return weight

    network = linear_units()
    made(network, lower_half(), score=score, steps=1)
    assert torch.allclose(told[0], OUTGOING)
    assert torch.allclose(told[1], network[:3](as_float(IMAGES.pixels)).mean(0))


def test_a_head_that_is_a_convolution_has_channels_for_units() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        network = nn.Sequential(*layers).eval()
    best = int(network[2].weight.abs().sum((0, 2, 3)).argmax())
    [trigger] = made(network, lower_half())
    clean, stamped = (
        network[:2](as_float(pixels))[:, best].mean() for pixels in (IMAGES.pixels, trigger.stamp(IMAGES.pixels))
    )
    assert stamped > 1.3 * clean


def test_more_units_than_live_ones_are_refused() -> None:
    with pytest.raises(UnfitOptions, match=r"3 triggers with 2 units each: .* has 5 that"):
        made(linear_units(), lower_half(), count=3, units=2)


def test_the_network_is_not_changed_and_the_seed_decides() -> None:
    network = linear_units().train()
    before = copy.deepcopy(network)
    one, same, other = (made(network, lower_half(), steps=2, seed=seed)[0].pattern for seed in (0, 0, 1))
    assert same_state(network, before)
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
