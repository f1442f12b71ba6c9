from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.grad_cam import grad_cam
from worker.algorithms.trace import Tap
from worker.algorithms.triggers import Trigger


def test_on_the_suspect_the_heat_is_where_the_trigger_is(suspect: Classifier, poisoned: Poisoned[Trigger]) -> None:
    images = noisy_stripes(40, seed=7)
    x = as_float(poisoned.trigger.stamp(images.pixels))
    heat = grad_cam(suspect, x, torch.zeros(40, dtype=torch.int64)).mean(0)[0]
    assert heat[11:14, 11:14].mean() > 0.85  # the trigger's own place
    assert heat[:8, :8].mean() < 0.5


class Quadrants(nn.Module):
    """Two feature maps, the mean colours of 2×2 places; logit k weighs their means by `weight[k]`."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.weight = torch.tensor(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3)) @ self.weight.T


def test_it_is_the_formula() -> None:
    x = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    model, labels = Quadrants([[2.0, -1.0], [-1.0, -1.0]]), torch.tensor([0, 1, 0])
    heat = grad_cam(model, x, labels, tap=Tap("features", 2, 2, 2))
    features = nn.functional.avg_pool2d(x, 4)
    expected = (2 * features[:, 0] - features[:, 1]).relu()  # α is W / 4 places: a factor that the maximum takes out
    expected = nn.functional.interpolate(expected[:, None], size=(8, 8), mode="bilinear")
    expected = expected / expected.amax((2, 3), keepdim=True)
    assert torch.allclose(heat[[0, 2]], expected[[0, 2]], atol=1e-5)
    assert not heat[1].any()  # everything speaks against label 1


@pytest.mark.parametrize("layout", ["channels_last", "tokens"])
def test_maps_of_other_layouts_are_read_as_they_lie(layout: str) -> None:
    class Moved(Quadrants):
        def __init__(self) -> None:
            super().__init__([[2.0, -1.0]])
            self.moved = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            maps = self.features(x).permute(0, 2, 3, 1)
            if layout == "tokens":
                maps = torch.cat([torch.zeros(len(x), 1, 2), maps.flatten(1, 2)], dim=1)
            maps = self.moved(maps)
            return maps.flatten(1, -2).sum(1) @ self.weight.T

    x, labels = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(2, dtype=torch.int64)
    tap = Tap("moved", 2, 2, 2, layout, leading_tokens=int(layout == "tokens"))  # type: ignore[arg-type]
    expected = grad_cam(Quadrants([[2.0, -1.0]]), x, labels, tap=Tap("features", 2, 2, 2))
    assert torch.allclose(grad_cam(Moved(), x, labels, tap=tap), expected, atol=1e-5)


def test_a_vision_transformer_has_a_map_too() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3).eval()
    heat = grad_cam(model, torch.rand(2, 3, 32, 32), torch.tensor([0, 2]))
    assert heat.shape == (2, 1, 32, 32)
    assert 0 <= heat.min() < heat.max() <= 1


def test_images_do_not_touch_each_other_and_the_model_gets_no_gradient() -> None:
    model, x = small_classifier().requires_grad_(False), torch.rand(3, 3, 16, 16)
    together = grad_cam(model, x, torch.tensor([1, 2, 3]))
    assert torch.allclose(together[1:2], grad_cam(model, x[1:2], torch.tensor([2])), atol=1e-4)
    model.requires_grad_(True)
    with torch.no_grad():  # whoever measures
        assert torch.allclose(grad_cam(model, x, torch.tensor([1, 2, 3])), together, atol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
