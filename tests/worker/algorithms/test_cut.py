from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import small_classifier
from worker.algorithms.cut import Cut, replacing
from worker.algorithms.taps import find_taps
from worker.algorithms.trace import Tap


@pytest.mark.parametrize("place", [0, -2, -1])
def test_the_second_half_of_the_first_half_is_the_network(place: int) -> None:
    model, x = small_classifier(), torch.rand(5, 3, 16, 16)
    cut = Cut(model, find_taps(model, x).used[place], x[:1])
    with torch.no_grad():
        features = cut.features(x)
        assert features.shape[cut.channels] == cut.tap.channels
        assert torch.allclose(cut.logits(features), model(x), atol=1e-4)
        assert cut.logits(torch.cat([features, features])).shape == (10, 4)
    assert not any(module._forward_hooks for module in model.modules())


def test_tokens_are_cut_too() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3).eval()
    x = torch.rand(3, 3, 32, 32)
    cut = Cut(model, find_taps(model, x).used[0], x[:1])
    with torch.no_grad():
        features = cut.features(x)
        assert features.shape == (3, 17, 192)
        assert cut.channels == 2
        assert torch.allclose(cut.logits(features), model(x), atol=1e-4)


class Pair(nn.Module):
    """A module that gives its map and its size."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, x.shape[2]


class WithPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        features, size = self.pair(x)
        return features.sum((2, 3)) / size


def test_only_the_map_of_several_outputs_is_replaced() -> None:
    x, model = torch.ones(2, 3, 4, 4), WithPair()
    with replacing(model, Tap("pair", 3, 4, 4), lambda features: 2 * features):
        assert torch.allclose(model(x), torch.full((2, 3), 8.0))
    assert torch.allclose(model(x), torch.full((2, 3), 4.0))


def test_the_gradient_flows_through_the_features() -> None:
    model, x = small_classifier().requires_grad_(False), torch.rand(2, 3, 16, 16)
    cut = Cut(model, find_taps(model, x).used[-1], x[:1])
    features = cut.features(x).requires_grad_()
    cut.logits(features).sum().backward()
    assert features.grad is not None
    assert features.grad.any()
