"""What every purifier gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Purified:
    """`model` is a new network with the suspect's keys, shapes and dtypes. `history` has one entry an epoch, measured
    on clean images alone; `chosen_epoch` (from 1; 0 is the suspect) is the one that the model is from."""

    model: nn.Module
    history: list[dict[str, float]]
    chosen_epoch: int
