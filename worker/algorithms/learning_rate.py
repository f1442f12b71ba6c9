"""The learning rate: how it goes on after an epoch (SAGE's dynamic rule, the two that its paper compares it with, and
the cosine that the lab found better on small bundles), and what it is for each weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn

Schedule = Literal["cosine", "dynamic", "fixed", "divided"]
Scale = Literal["filters", "none"]
CONVOLUTION = 4  # dimensions of its weight


def parameter_groups(parameters: Sequence[nn.Parameter], scale: Scale) -> list[dict[str, Any]]:
    """Groups for an optimiser. The rate of a group is to be `scale` (its entry) times the rate of the run.

    With "filters" that is, for the weight of a convolution, the mean square of its filters' norms as they are now, and
    1 for all other parameters. The same rate then means the same for networks that are the same but for the scale of
    their filters. Batch norm makes that scale a matter of how a network was trained: a layer scaled by a gives the same
    behind it, its gradient is 1/a of what it was, and a fixed rate turns it 1/a² as far (van Laarhoven 2017, "L2
    regularization versus batch and weight normalization"). The paper's SAGE has one rate for all: "none".
    """
    if scale == "none":
        return [{"params": list(parameters), "scale": 1.0}]
    filters = [one for one in parameters if one.ndim == CONVOLUTION]
    others = [one for one in parameters if one.ndim != CONVOLUTION]
    groups = [{"params": [one], "scale": one.detach().flatten(1).square().sum(1).mean().item()} for one in filters]
    return [*groups, {"params": others, "scale": 1.0}] if others else groups


class Rule(Protocol):
    """Its fields are its whole state: a rule made of another's fields goes on as that one would."""

    lr: float

    def after_epoch(self, loss: float) -> float:
        """Take the held-out loss of the epoch that has ended; give the learning rate of the next one."""
        ...


def rule(schedule: Schedule, lr: float, *, epochs: int, period: int) -> Rule:
    """The rule by its name for a run of so many epochs; `period` is that of the dynamic one, in epochs."""
    if schedule == "cosine":
        return CosineRule(lr, epochs, lr)
    if schedule == "dynamic":
        return HalvingRule(lr, period)
    return FixedRule(lr) if schedule == "fixed" else DividingRule(lr)


@dataclass
class CosineRule:
    """From `first` down to zero over `epochs`, along half a cosine (Loshchilov & Hutter, ICLR 2017)."""

    lr: float
    epochs: int
    first: float
    epoch: int = 0

    def after_epoch(self, loss: float) -> float:
        self.epoch += 1
        self.lr = self.first * (1 + math.cos(math.pi * self.epoch / self.epochs)) / 2
        return self.lr


@dataclass
class FixedRule:
    lr: float

    def after_epoch(self, loss: float) -> float:
        return self.lr


@dataclass
class DividingRule:
    """Divides the rate by 10 every two epochs, as NAD does (Li et al., ICLR 2021)."""

    lr: float
    epoch: int = 0

    def after_epoch(self, loss: float) -> float:
        self.epoch += 1
        self.lr /= 10 if self.epoch % 2 == 0 else 1
        return self.lr


@dataclass
class HalvingRule:
    """After every `period` epochs the rate is halved if (SAGE, IEEE S&P 2023, eq. 6)

    - C1: the loss fell in fewer than `rho` · `period` epochs of the interval, or
    - C2: the rate was left alone at the last check, and the lowest loss so far is no lower than it was then.

    The rule is the step-size rule of Auto-PGD (Croce & Hein 2020) with epochs for steps. The paper writes "L_max" for
    the best value so far, as Auto-PGD does; for a loss that is minimised it is the running minimum.
    """

    lr: float
    period: int = 25
    rho: float = 0.75

    epoch: int = 0
    falls: int = 0
    previous: float = math.inf
    lowest: float = math.inf
    lowest_at_check: float = math.inf
    halved_at_check: bool = False

    def after_epoch(self, loss: float) -> float:
        self.epoch += 1
        self.falls += loss < self.previous
        self.lowest = min(self.lowest, loss)
        self.previous = loss
        if self.epoch % self.period == 0:
            seldom = self.falls < self.rho * self.period
            stalled = not self.halved_at_check and self.lowest >= self.lowest_at_check
            self.halved_at_check = seldom or stalled
            self.lr /= 2 if self.halved_at_check else 1
            self.lowest_at_check = self.lowest
            self.falls = 0
        return self.lr
