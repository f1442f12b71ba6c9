"""A smooth warp of an image: WaNet's trigger, and what the universal warp searches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.algorithms.data import as_float


@dataclass(frozen=True)
class Warp:
    """`grid` (H, W, 2) in [-1, 1]: where each pixel of the warped image is taken from, as (x, y)."""

    grid: Tensor

    def put(self, x: Tensor) -> Tensor:
        """float (N, C, H, W) in [0, 1] to the same, warped."""
        return sampled(x, self.grid[None].to(x.device).expand(len(x), -1, -1, -1))

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, warped, and rounded as a real image file would be."""
        return warped(pixels, self.grid[None].to(pixels.device).expand(len(pixels), -1, -1, -1))


def warped(pixels: Tensor, grids: Tensor) -> Tensor:
    """uint8 (N, C, H, W) sampled at `grids` (N, H, W, 2); uint8 again."""
    return sampled(as_float(pixels), grids).mul(255).round_().clamp_(0, 255).to(torch.uint8)


def sampled(x: Tensor, grids: Tensor) -> Tensor:
    """float (N, C, H, W) sampled at `grids` (N, H, W, 2), bilinearly, corner to corner; beyond the edge is the edge."""
    return F.grid_sample(x, grids, mode="bilinear", padding_mode="border", align_corners=True)


def smooth_fields(shifts: Tensor, size: tuple[int, ...]) -> Tensor:
    """The identity plus smooth shifts: `shifts` (K, 2, G, G), in pixels to the right and down at G × G points of the
    image, to grids (K, H, W, 2) for images of `size` (H, W). In between they are interpolated bicubically."""
    height, width = size
    between = F.interpolate(shifts, size=(height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    identity = torch.stack([columns, rows], dim=-1).to(shifts.device)
    pixel = torch.tensor([2 / max(1, width - 1), 2 / max(1, height - 1)], device=shifts.device)
    return (identity + between * pixel).clamp(-1, 1)
