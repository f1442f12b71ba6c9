"""WaNet: a trigger that is no pattern but an elastic warp of the image (Nguyen & Tran, ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.algorithms.attacks.poisoned import Poisoned, poison
from worker.algorithms.data import Images
from worker.algorithms.warp import Warp, smooth_fields, warped


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


def _field(size: tuple[int, ...], grid_size: int, strength: float, seed: int) -> Tensor:
    """A grid (H, W, 2) of smooth random shifts. The paper divides them by the side of the image, of which its grid
    spans two units: `strength` / 2 pixels on average."""
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.rand(1, 2, grid_size, grid_size, generator=generator) * 2 - 1
    height, width = size
    pixels = strength / 2 * torch.tensor([(width - 1) / width, (height - 1) / height])
    return smooth_fields(shifts / shifts.abs().mean() * pixels[:, None, None], size)[0]
