from __future__ import annotations

import torch

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.data import as_float
from worker.algorithms.warp import Warp, smooth_fields, warped


def identity(height: int, width: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def test_no_shift_is_no_change() -> None:
    pixels = noisy_stripes(4).pixels
    assert torch.equal(Warp(identity(16, 16)).stamp(pixels), pixels)


def test_a_shift_of_one_pixel_to_the_right_takes_the_left_neighbour() -> None:
    pixels = noisy_stripes(4).pixels
    grid = identity(16, 16)
    grid[..., 0] -= 2 / 15  # x first
    moved = Warp(grid.clamp(-1, 1)).stamp(pixels)
    assert (moved[..., 1:].int() - pixels[..., :-1].int()).abs().max() <= 1


def test_each_image_has_a_grid_of_its_own() -> None:
    pixels = noisy_stripes(2).pixels
    grids = torch.stack([identity(16, 16), -identity(16, 16)])
    both = warped(pixels, grids)
    assert torch.equal(both[0], pixels[0])
    assert (both[1].int() - pixels[1].flip(1, 2).int()).abs().max() <= 1


def test_in_training_it_is_the_same_warp_without_the_rounding() -> None:
    pixels = noisy_stripes(4).pixels
    warp = Warp(smooth_fields(torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)), (16, 16))[0])
    assert (warp.put(as_float(pixels)) * 255 - warp.stamp(pixels)).abs().max() <= 0.501


def test_shifts_are_in_pixels_at_the_corners_of_any_image() -> None:
    shifts = torch.zeros(2, 2, 4, 4)
    shifts[1, 0, 0, 0], shifts[1, 1, 3, 3] = 2.0, -1.5  # right at the upper left, up at the lower right
    still, moved = smooth_fields(shifts, (9, 17))
    assert torch.allclose(still, identity(9, 17), atol=1e-6)
    change = moved - identity(9, 17)
    assert torch.allclose(change[0, 0] * torch.tensor([16, 8]) / 2, torch.tensor([2.0, 0.0]), atol=1e-4)
    assert torch.allclose(change[8, 16] * torch.tensor([16, 8]) / 2, torch.tensor([0.0, -1.5]), atol=1e-4)
