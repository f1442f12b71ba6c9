"""The dynamic learning rate of SAGE (IEEE S&P 2023, eq. 6): halve it where an interval of epochs brought too little."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class HalvingRule:
    """After every `period` epochs the rate is halved if

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
        """Take the held-out loss of the epoch that has ended; give the learning rate of the next one."""
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
