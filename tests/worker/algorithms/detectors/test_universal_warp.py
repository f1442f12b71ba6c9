from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.universal import standing_out
from worker.algorithms.detectors.universal_warp import universal_warp

IMAGES, HELD_OUT = noisy_stripes(60, seed=5), noisy_stripes(80, seed=6)


def test_the_target_of_a_warp_stands_out_and_no_label_of_the_twin(
    warped_suspect: Classifier, benign: Classifier
) -> None:
    found = universal_warp(warped_suspect, IMAGES, HELD_OUT, num_classes=4, steps=20, batch_size=8)
    assert standing_out(found) == 0
    assert found.shifts.abs().max() <= 1.0
    others = universal_warp(benign, IMAGES, HELD_OUT, num_classes=4, steps=20, batch_size=8)
    assert standing_out(others) is None


class Edge(nn.Module):
    """Label 1 for as much as there is of the right edge's colour in the middle column."""

    def forward(self, x: Tensor) -> Tensor:
        middle = x[:, :, :, 8].mean((1, 2))
        return torch.stack([torch.full_like(middle, 0.25), middle], dim=1)


def test_the_way_is_that_which_brings_the_bright_side_into_the_middle() -> None:
    """A ramp from dark to bright: pixels have to come from the right for label 1, and from the left for label 0."""
    ramp = (torch.arange(17) * 8).to(torch.uint8).expand(6, 3, 17, 17)
    images = Images(ramp, torch.tensor([0, 1, 0, 1, 0, 1]))
    found = universal_warp(Edge(), images, images, num_classes=2, radius=2.0, points=3, steps=12, batch_size=6)
    left, right = found.shifts[:, 0, :, 1].mean(1).tolist()  # to the right, in the middle column
    assert left < -1.9
    assert right > 1.9
    assert found.success == [1.0, 1.0]
    untouched = Edge()(as_float(ramp))
    assert (untouched.argmax(1) == 1).all()  # 64/255 a little above a quarter: it is the warp that leads to 0


def test_images_of_the_label_itself_do_not_count() -> None:
    images = Images(torch.zeros(4, 3, 17, 17, dtype=torch.uint8), torch.ones(4, dtype=torch.int64))
    found = universal_warp(Edge(), images, images, num_classes=2, steps=2, batch_size=2)
    assert found.success == [1.0, None]
    assert not found.shifts[1].any()


def test_the_seed_decides_and_the_model_is_left_as_it_was(benign: Classifier) -> None:
    model = copy.deepcopy(benign).train()
    before = copy.deepcopy(model)
    one, same, other = (
        universal_warp(model, IMAGES, HELD_OUT, num_classes=4, steps=2, batch_size=4, seed=seed).shifts
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert same_state(model, before)
    assert model.training
