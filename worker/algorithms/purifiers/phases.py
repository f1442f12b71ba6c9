"""Purification in two phases, each of which can be interrupted."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from worker.algorithms.checkpoint import Checkpoint, Keep, below, nested
from worker.algorithms.purifiers.purified import Purified

Tensors = dict[str, Tensor]


def in_two_phases(
    name: str,
    first: Callable[[Checkpoint | None], Tensors],
    second: Callable[[Tensors, Checkpoint | None, Keep], Purified],
    *,
    resume: Checkpoint | None,
    checkpoint: Keep,
) -> Purified:
    """What `second` makes of the tensors that `first` has made; they are called `name` in checkpoints.

    The tensors go into every checkpoint of the second phase, so that a run that goes on from there does not make them
    again; one without them is of the first phase, which gets it. Each phase offers its own checkpoints: `first` to
    the `checkpoint` of the run, `second` to the one that it is given.
    """
    kept = below(name, resume.tensors) if resume else {}
    made = kept or first(resume)

    def together(make: Callable[[], Checkpoint]) -> Checkpoint:
        own = make()
        return Checkpoint(own.facts, {**own.tensors, **nested(name, made)})

    return second(made, resume if kept else None, lambda make: checkpoint(lambda: together(make)))


def loaded(model: nn.Module, state: Tensors) -> nn.Module:
    """A copy of `model` with the weights `state`, in the model's own memory layout, whatever layout `state` has come
    from a file with: another one gives other roundings."""
    network = copy.deepcopy(model)
    network.load_state_dict(state)
    return network
