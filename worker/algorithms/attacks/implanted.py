"""What an attack leaves that trains the network itself, and not only poisons files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from torch import nn

from worker.algorithms.aim import Aim, Kind


@dataclass(frozen=True)
class Implanted(Generic[Kind]):
    """A network with a backdoor, in evaluation mode, and what its triggers are for."""

    model: nn.Module
    aims: tuple[Aim[Kind], ...]

    @property
    def trigger(self) -> Kind:
        """The trigger, or the first of several."""
        return self.aims[0].trigger
