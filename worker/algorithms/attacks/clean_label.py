"""Which images a clean-label attack changes: some of one class. Their labels are right, and stay."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.algorithms.attacks.poisoned import draw
from worker.algorithms.data import Images
from worker.algorithms.errors import UnusableImages


def some_of_class(images: Images, label: int, *, rate: float, seed: int) -> Tensor:
    """Where a share `rate` of the images (N) of class `label` is, at least one of them, drawn by `seed`: int64 on the
    CPU. Raises `UnusableImages` where no image is of the class, or the rate is above one."""
    members = (images.labels == label).nonzero().flatten().cpu()
    if len(members) == 0:
        raise UnusableImages(f"the attack changes images of class {label}, and none is of it")
    return draw(members, max(1, round(rate * len(members))), torch.Generator().manual_seed(seed))
