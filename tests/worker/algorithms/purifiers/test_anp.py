"""Adversarial neuron pruning: the loss of a mask by hand, the limits, and what is pruned."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.architectures.lenet5 import LeNet5
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.errors import UnfitNetwork
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.purifiers.anp import _objective, anp
from worker.algorithms.purifiers.channels import batch_norms

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(60, seed=32)
SHORT: dict[str, Any] = {"steps": 8, "batch_size": 64, "augmentation": "crop", "seed": 5}


def with_factors(model: nn.Module, scale: Tensor, shift: Tensor) -> nn.Module:
    """A copy in training mode, the weights and biases of its batch norms multiplied."""
    copied = copy.deepcopy(model).train()
    first = 0
    with torch.no_grad():
        for norm in batch_norms(copied).values():
            last = first + norm.num_features
            norm.weight *= scale[first:last]
            norm.bias *= shift[first:last]
            first = last
    return copied


def test_the_loss_is_that_of_the_mask_and_of_its_worst_perturbation(suspect: Classifier) -> None:
    epsilon, alpha = 0.4, 0.2
    norms = {name: norm.num_features for name, norm in batch_norms(suspect).items()}
    total = sum(norms.values())
    mask = torch.rand(total, generator=torch.Generator().manual_seed(1))
    x, labels = as_float(HELD_OUT.pixels), HELD_OUT.labels

    def cross_entropy(scale: Tensor, shift: Tensor) -> float:
        return F.cross_entropy(with_factors(suspect, scale, shift)(x), labels).item()

    losses = _objective(suspect, norms, epsilon, alpha), _objective(suspect, norms, epsilon, 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        both, clean = (loss(nn.ParameterList([mask]), x, labels).item() for loss in losses)
        torch.manual_seed(7)
        start = torch.empty(2, total).uniform_(-epsilon, epsilon)
    assert clean == pytest.approx(cross_entropy(mask, torch.ones(total)), rel=1e-3)
    perturbed = (both - alpha * clean) / (1 - alpha)
    assert perturbed > 1.1 * cross_entropy(mask + start[0], 1 + start[1])  # one step up from where it starts


def test_without_perturbation_no_channel_is_sensitive(suspect: Classifier) -> None:
    result = anp(suspect, CLEAN, HELD_OUT, epsilon=0.0, **SHORT)
    assert same_state(result.model, suspect)
    assert (result.history, result.chosen_epoch) == ([], 0)
    assert [note.code for note in result.notes] == ["nothing_pruned"]
    assert anp(suspect, CLEAN, HELD_OUT, **SHORT).history


def test_scales_of_the_lowest_masks_are_zero_and_nothing_else_changes(suspect: Classifier) -> None:
    kept: list[Checkpoint] = []
    result = anp(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), **SHORT)
    mask = kept[-1].tensors["mask"]
    assert ((mask >= 0) & (mask <= 1)).all()
    chosen = result.history[result.chosen_epoch - 1]
    assert chosen["pruned"] == (mask <= chosen["threshold"]).sum() > 0
    scales = torch.cat([norm.weight.detach() for norm in batch_norms(result.model).values()])
    before = torch.cat([norm.weight.detach() for norm in batch_norms(suspect).values()])
    assert torch.equal(scales, torch.where(mask <= chosen["threshold"], 0, before))
    changed = [
        name for name, value in suspect.state_dict().items() if not torch.equal(value, result.model.state_dict()[name])
    ]
    assert changed
    assert all(name.removesuffix(".weight") in batch_norms(suspect) for name in changed)
    measured = accuracy(logits(result.model, HELD_OUT.pixels).argmax(1), HELD_OUT.labels)
    assert chosen["held_out_accuracy"] == pytest.approx(measured)


def test_the_higher_the_drop_allowed_the_more_is_pruned(suspect: Classifier) -> None:
    none, some, all_ = (anp(suspect, CLEAN, HELD_OUT, max_drop=drop, **SHORT) for drop in (0.0, 0.05, 1.0))
    assert same_state(none.model, suspect)
    assert none.chosen_epoch == 0
    assert 0 < some.chosen_epoch <= all_.chosen_epoch == len(all_.history)
    assert all_.history[: len(some.history)] == some.history


@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(suspect: Classifier, after: int) -> None:
    class Killed(Exception):
        pass

    kept: list[Checkpoint] = []

    def die(fraction: float) -> None:
        if len(kept) == after:
            raise Killed

    with pytest.raises(Killed):
        anp(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), progress=die, **SHORT)
    last = Checkpoint(json.loads(json.dumps(kept[-1].facts)), kept[-1].tensors)
    whole, resumed = anp(suspect, CLEAN, HELD_OUT, **SHORT), anp(suspect, CLEAN, HELD_OUT, resume=last, **SHORT)
    assert same_state(whole.model, resumed.model)
    assert whole.history == resumed.history


def test_steps_are_rounded_up_to_epochs_and_told_as_progress(suspect: Classifier) -> None:
    told: list[float] = []
    anp(suspect, CLEAN, HELD_OUT, progress=told.append, **{**SHORT, "steps": 3})
    assert told[:2] == pytest.approx([0.475, 0.95])  # two epochs of two steps
    assert told == sorted(told)
    assert told[-1] <= 1


def test_a_network_without_batch_norms_is_refused() -> None:
    with pytest.raises(UnfitNetwork, match="no batch norm"):
        anp(LeNet5(4, 3).eval(), CLEAN, HELD_OUT)
