from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.februus import februus, filled
from worker.algorithms.grad_cam import deciding_regions, deciding_tap
from worker.algorithms.metrics import attack_success, logits
from worker.algorithms.triggers import Trigger

IMAGES = noisy_stripes(80, seed=7)  # more than one part


class Bright(nn.Module):
    """Label 1 for images with a bright place; what decides is that place, in means over two and over four pixels."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.fine, self.coarse = (nn.Conv2d(count, 1, 2, stride=2, bias=False) for count in (channels, 1))
        self.head = nn.Linear(16, 2)
        for mean in (self.fine, self.coarse):
            nn.init.constant_(mean.weight, 1 / mean.weight.numel())
        self.head.weight.data = torch.tensor([[0.0] * 16, [1.0] * 16])
        self.head.bias.data = torch.tensor([0.2, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.coarse(self.fine(x)).flatten(1).pow(4))
        return logits


def with_a_patch(count: int, channels: int, corners: list[tuple[int, int]]) -> Tensor:
    """uint8 images (count, channels, 16, 16), dark but for a patch of eight pixels square at the corners in turn."""
    pixels = torch.randint(0, 60, (count, channels, 16, 16), generator=torch.Generator().manual_seed(0))
    for number in range(count):
        row, column = corners[number % len(corners)]
        pixels[number, :, row : row + 8, column : column + 8] = 255
    return pixels.to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_region_that_decides_goes_and_the_rest_stays_to_the_bit(channels: int) -> None:
    pixels, model = with_a_patch(6, channels, [(0, 0), (8, 8), (4, 0)]), Bright(channels)
    cleaned = februus(model, pixels, level=0.3)  # at a level above one half, bilinear maps leave the patch's edge
    assert (cleaned.shape, cleaned.dtype) == (pixels.shape, torch.uint8)
    assert logits(model, pixels).argmax(1).tolist() == [1] * 6
    assert logits(model, cleaned).argmax(1).tolist() == [0] * 6
    tap = deciding_tap(model, as_float(pixels))
    region = deciding_regions(model, Images(pixels, torch.ones(6, dtype=torch.int64)), tap, 0.3).bool()
    assert region[(pixels == 255).all(1, keepdim=True)].all()
    assert region.float().mean() < 0.4  # a quarter is the patch
    outside = ~region.expand_as(pixels)
    assert torch.equal(cleaned[outside], pixels[outside])


def test_an_image_that_nothing_speaks_for_stays() -> None:
    class Silent(Bright):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    dark = with_a_patch(3, 3, [(0, 0)]).clamp(max=60)
    assert torch.equal(februus(Silent(), dark), dark)


def test_images_do_not_matter_to_each_other() -> None:
    pixels, model = with_a_patch(70, 3, [(0, 0), (8, 8), (4, 0)]), Bright()
    together = februus(model, pixels)
    for index in (0, 5, 69):
        assert torch.equal(februus(model, pixels[index : index + 1])[0], together[index])


def test_a_backdoor_loses_its_trigger(suspect: Classifier, poisoned: Poisoned[Trigger]) -> None:
    stamped = Images(poisoned.trigger.stamp(IMAGES.pixels), IMAGES.labels)
    before, after = (
        attack_success(logits(suspect, pixels).argmax(1), stamped, torch.zeros(80, dtype=torch.int64))
        for pixels in (stamped.pixels, februus(suspect, stamped.pixels))
    )
    assert before is not None
    assert after is not None
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert after.recovery_accuracy > before.recovery_accuracy + 0.3


def test_the_model_is_left_as_it_was(suspect: Classifier) -> None:
    model = copy.deepcopy(suspect).train()
    before = copy.deepcopy(model)
    februus(model, IMAGES.pixels[:4])
    assert same_state(model, before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("size", [(16, 16), (13, 22)])
def test_a_gap_in_a_slope_is_filled_along_it(size: tuple[int, int]) -> None:
    height, width = size
    slope = torch.arange(width, dtype=torch.float32).expand(2, 3, height, width).clone()
    known = torch.ones(2, 1, height, width, dtype=torch.bool)
    known[0, :, 4:9, 4:9] = False
    damaged = torch.where(known, slope, 255.0)
    found = filled(damaged, known)
    assert torch.equal(found[known.expand_as(found)], slope[known.expand_as(slope)])
    assert (found - slope).abs().max() < 0.3
    assert found[0, 0, 6, 4] < found[0, 0, 6, 6] < found[0, 0, 6, 8]


def test_a_fill_stays_within_what_is_known_around_it() -> None:
    x = torch.full((1, 1, 9, 9), 100.0)
    known = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    known[..., 0] = True  # a gap that reaches the other edges
    assert torch.allclose(filled(torch.where(known, x, 7.0), known), x)
    assert not filled(x, torch.zeros_like(known)).any()
