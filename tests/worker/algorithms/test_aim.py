from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.data import Images


@dataclass(frozen=True)
class Brightness:
    """Sets all pixels: the network below answers with that number."""

    value: int

    def stamp(self, pixels: Tensor) -> Tensor:
        return torch.full_like(pixels, self.value)


class SaysBrightness(nn.Module):
    """Class k for an image of pixels k."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot((x.mean((1, 2, 3)) * 255).round().long(), 4).float()


IMAGES = Images(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))


def test_images_of_the_targets_own_class_do_not_count() -> None:
    found = success(SaysBrightness(), IMAGES, Aim(Brightness(2), target=2))
    assert found is not None
    assert (found.asr, found.recovery_accuracy, found.counted) == (1.0, 0.0, 6)


def test_only_images_of_the_sources_count_where_there_are_sources() -> None:
    found = success(SaysBrightness(), IMAGES, Aim(Brightness(1), target=3, sources=(0, 1)))
    assert found is not None
    assert (found.asr, found.recovery_accuracy, found.counted) == (0.0, 0.5, 4)


def test_nothing_is_measured_where_no_image_counts() -> None:
    assert success(SaysBrightness(), IMAGES, Aim(Brightness(1), target=1, sources=(7,))) is None
    only_target = IMAGES[IMAGES.labels == 1]
    assert success(SaysBrightness(), only_target, Aim(Brightness(1), target=1)) is None
