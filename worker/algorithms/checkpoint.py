"""Where a training run stands after an epoch: enough to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """`facts` is what JSON can say, `tensors` what it cannot. A run that is given its own checkpoint ends with the same
    weights as one that was never interrupted, to the bit on a CPU."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


Keep = Callable[[Callable[[], Checkpoint]], None]
"""Told after every epoch how to make its checkpoint. It need not make one every time: that copies the weights."""


def keep_nothing(make: Callable[[], Checkpoint]) -> None:
    """For runs that nobody will resume."""


def nested(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix` and a slash before their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have `prefix` and a slash before them, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
