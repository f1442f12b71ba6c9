"""What every purifier gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from worker.algorithms.notes import Note
from worker.algorithms.taps import Tap


@dataclass(frozen=True)
class Purified:
    """`model` is a new network with the suspect's keys, shapes and dtypes. `history` has one entry an epoch, or
    one a step of a search, measured on clean images alone; `chosen_epoch` (from 1; 0 is the suspect) is the one that
    the model is from. `taps` are the places where attention was read, where it was; `notes` are what the reader of the
    result should know."""

    model: nn.Module
    history: list[dict[str, float]]
    chosen_epoch: int
    taps: list[Tap] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
