"""Labelled images in memory: uint8 on whatever device the work happens, so that an epoch never waits for a loader."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.algorithms.errors import UnusableImages


@dataclass(frozen=True)
class Images:
    """Images and their true labels.

    `pixels` is uint8 (N, C, H, W) with values 0 to 255; `labels` is int64 (N,).
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise UnusableImages(
                f"expected uint8 images (N, C, H, W), got {self.pixels.dtype} {tuple(self.pixels.shape)}"
            )
        if self.labels.shape != self.pixels.shape[:1] or self.labels.dtype != torch.int64:
            raise UnusableImages(
                f"expected int64 labels ({len(self.pixels)},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if len(self.pixels) == 0:
            raise UnusableImages("there are no images")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])

    def to(self, device: torch.device | str) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


def as_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 [0, 1]; the network's own normalisation is inside `Classifier`."""
    return pixels.to(torch.float32).div_(255)


def split(images: Images, fractions: tuple[float, ...], seed: int) -> tuple[Images, ...]:
    """Cut into disjoint parts, stratified by class.

    `fractions` sum to one. The same images, fractions and seed give the same parts. Each class is dealt out by
    largest remainder, so a part's share of a class is off by less than one image.
    """
    if abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must sum to 1, got {fractions}")
    generator = torch.Generator().manual_seed(seed)
    labels = images.labels.cpu()
    parts: list[list[Tensor]] = [[] for _ in fractions]
    for label in torch.unique(labels):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        for part, chosen in zip(parts, torch.split(members, _shares(len(members), fractions)), strict=True):
            part.append(chosen)
    device = images.pixels.device
    return tuple(images[torch.cat(part).sort().values.to(device)] for part in parts)


def _shares(count: int, fractions: tuple[float, ...]) -> list[int]:
    """Whole numbers that sum to `count`, as near to `fractions` as can be (largest remainder)."""
    exact = [count * fraction for fraction in fractions]
    shares = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: count - sum(shares)]:
        shares[i] += 1
    return shares
