from __future__ import annotations

import pytest
import torch

from worker.algorithms.triggers import Trigger, blend


def test_a_mask_of_one_pastes_and_of_zero_leaves() -> None:
    x, pattern = torch.rand(2, 3, 4, 4), torch.rand(3, 4, 4)
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    blended = blend(x, mask, pattern)
    assert torch.allclose(blended[:, :, :2], pattern[:, :2].expand(2, -1, -1, -1))
    assert torch.equal(blended[:, :, 2:], x[:, :, 2:])


def test_a_mask_between_blends_in_proportion() -> None:
    assert blend(torch.tensor(0.2), torch.tensor(0.25), torch.tensor(1.0)).item() == pytest.approx(0.75 * 0.2 + 0.25)


def test_stamping_rounds_as_a_file_would_and_leaves_the_input_alone() -> None:
    pixels = torch.full((1, 1, 1, 1), 100, dtype=torch.uint8)
    trigger = Trigger(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 1.0))
    stamped = trigger.stamp(pixels)
    assert stamped.dtype == torch.uint8
    assert stamped.item() == 178  # 177.5, rounded to even
    assert pixels.item() == 100
