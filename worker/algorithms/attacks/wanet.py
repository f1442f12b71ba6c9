"""WaNet: a trigger that is no pattern but an elastic warp of the image (Nguyen & Tran, ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.algorithms.attacks.poisoned import Poisoned, poison
from worker.algorithms.data import Images, as_float


@dataclass(frozen=True)
class Warp:
    """`grid` (H, W, 2) in [-1, 1]: where each pixel of the warped image is taken from, as (x, y)."""

    grid: Tensor

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, warped bilinearly, and rounded as a real image file would be."""
        return warped(pixels, self.grid[None].to(pixels.device).expand(len(pixels), -1, -1, -1))


def wanet(
    images: Images,
    *,
    target: int = 0,
    rate: float = 0.1,
    cover_rate: float = 0.2,
    grid_size: int = 4,
    strength: float = 0.5,
    seed: int = 0,
) -> Poisoned[Warp]:
    """Warp a share of a training set by one smooth field, and label those images `target`.

    The field is a `grid_size` × `grid_size` grid of random shifts, half of `strength` pixels on average, upsampled
    bicubically (the paper's k and s). A share `cover_rate` of all images, none of them poisoned, is warped by that
    field plus noise of up to half a pixel, another for each image, and keeps its label: the paper's noise mode, without
    which the backdoor answers to any warp and Neural Cleanse sees it.

    Differs from the paper in poisoning files once, before training, instead of every batch anew: whoever cannot control
    the training can do this one.
    """
    warp = Warp(_field(images.pixels.shape[-2:], grid_size, strength, seed))
    poisoned = poison(images, warp, target=target, rate=rate, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    others = torch.ones(len(images), dtype=torch.bool)
    others[poisoned.index] = False
    candidates = others.nonzero().flatten()
    cover = candidates[torch.randperm(len(candidates), generator=generator)[: round(cover_rate * len(images))]]
    pixels = poisoned.images.pixels
    height, width = pixels.shape[-2:]
    noise = torch.rand(len(cover), height, width, 2, generator=generator) * 2 - 1
    grids = (warp.grid + noise / torch.tensor([width, height])).clamp(-1, 1)
    pixels[cover] = warped(pixels[cover], grids)
    return poisoned


def warped(pixels: Tensor, grids: Tensor) -> Tensor:
    """uint8 (N, C, H, W) sampled at `grids` (N, H, W, 2), bilinearly, corner to corner; uint8 again."""
    sampled = F.grid_sample(as_float(pixels), grids, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _field(size: tuple[int, ...], grid_size: int, strength: float, seed: int) -> Tensor:
    """The identity plus smooth random shifts: (H, W, 2), in the units of `grid_sample`."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.rand(1, 2, grid_size, grid_size, generator=generator) * 2 - 1
    shifts = F.interpolate(shifts / shifts.abs().mean(), size=(height, width), mode="bicubic", align_corners=True)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    identity = torch.stack([columns, rows], dim=-1)
    return (identity + strength * shifts[0].permute(1, 2, 0) / torch.tensor([width, height])).clamp(-1, 1)
