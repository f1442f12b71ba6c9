"""What a trigger is for, and how often it reaches that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from worker.algorithms.data import Images
from worker.algorithms.metrics import AttackSuccess, attack_success, logits
from worker.algorithms.triggers import Stamp

Kind = TypeVar("Kind", bound=Stamp, covariant=True)


@dataclass(frozen=True)
class Aim(Generic[Kind]):
    """Stamped images of the classes `sources` are to be taken for `target`; no sources: images of all classes."""

    trigger: Kind
    target: int
    sources: tuple[int, ...] = ()


def success(model: nn.Module, images: Images, aim: Aim[Stamp]) -> AttackSuccess | None:
    """ASR and recovery accuracy of `aim` on clean `images` (N) with their true labels, stamped here. Images of the
    target's own class and of no source do not count; None where no image is left."""
    if aim.sources:
        of_sources = torch.isin(images.labels, torch.tensor(aim.sources, device=images.labels.device))
        if not bool(of_sources.any()):
            return None
        images = images[of_sources]
    stamped = Images(aim.trigger.stamp(images.pixels), images.labels)
    targets = torch.full_like(images.labels, aim.target)
    return attack_success(logits(model, stamped.pixels).argmax(1), stamped, targets)
