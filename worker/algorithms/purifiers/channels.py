"""What the purifiers that prune have in common: weights put to zero, and how far the held-out images let them go.

A channel goes by zeros in the weights that make it or that read it, so that keys and shapes of the network stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from worker.algorithms.errors import UnfitNetwork
from worker.algorithms.notes import Note
from worker.algorithms.training import Progress

Zeros = dict[str, Tensor]
"""Names of parameters, and which of their elements are to be zero: bool, of a shape that broadcasts to theirs."""


@torch.no_grad()
def put_zeros(model: nn.Module, zeros: Zeros) -> None:
    """Put the zeros into `model`, in place."""
    for name, where in zeros.items():
        model.get_parameter(name).masked_fill_(where, 0)


def with_zeros(model: nn.Module, zeros: Zeros) -> nn.Module:
    """A copy of `model` with the zeros in it."""
    pruned = copy.deepcopy(model)
    put_zeros(pruned, zeros)
    return pruned


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms with scale, shift and statistics of their own, by name. Raises `UnfitNetwork` for none."""
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.affine and module.track_running_stats
    }
    if not norms:
        raise UnfitNetwork("the channels of batch norms are to be pruned, and the network has no batch norm")
    return norms


def as_far_as_accuracy_allows(
    steps: Sequence[dict[str, float]],
    logits_at: Callable[[int], Tensor],
    labels: Tensor,
    *,
    max_drop: float,
    progress: Progress,
) -> tuple[int, list[dict[str, float]]]:
    """Take the steps, each of which prunes more than the one before, until one costs `max_drop` (a fraction in [0, 1])
    of the accuracy on images with `labels` (N,), or more.

    `steps` say of each what is to be in its entry of the history; `logits_at` gives the logits (N, K) after so many
    steps, the suspect's after none. The number of the last step before that one, 0 where already the first is it; and
    the history, that step included.
    """

    def measured(step: int) -> tuple[int, float]:
        logits = logits_at(step)
        return int((logits.argmax(1) == labels).sum()), F.cross_entropy(logits, labels).item()

    before, _ = measured(0)
    history: list[dict[str, float]] = []
    for number, facts in enumerate(steps, start=1):
        right, loss = measured(number)
        entry = {"epoch": number, **facts, "held_out_loss": loss, "held_out_accuracy": right / len(labels)}
        history.append(entry)
        progress(number / len(steps))
        if before - right >= max_drop * len(labels):
            return number - 1, history
    return len(history), history


def notes_on(pruned: int, reason: str) -> list[Note]:
    """What the reader of a result should know where nothing was `pruned`, and the `reason`."""
    if pruned:
        return []
    return [Note("nothing_pruned", f"Nothing was pruned: {reason}.", "Use another purifier.")]
