"""Learning from another network's answers (Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural
network")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 2.0


@torch.no_grad()
def answers(teacher: nn.Module, x: Tensor) -> Tensor:
    """float32 logits (N, K) of `teacher`, in its own mode, to learn from: without a gradient."""
    return teacher(x).float()  # type: ignore[no-any-return]


def divergence(predicted: Tensor, own: Tensor) -> Tensor:
    """T² · KL(own ‖ predicted) of logits (N, K) softened at temperature T = 2, averaged over N."""
    soft, target = F.log_softmax(predicted / TEMPERATURE, dim=1), F.log_softmax(own / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(soft, target, log_target=True, reduction="batchmean")
