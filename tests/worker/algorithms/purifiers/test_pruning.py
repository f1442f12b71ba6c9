"""Pruning: the sleeping channels of the last stage go, as far as the held-out images allow."""

from __future__ import annotations

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.purifiers.pruning import pruning

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(60, seed=32)


def test_the_least_active_channels_go_first(suspect: Classifier) -> None:
    """Activations by hand: the map of layer4, behind its last ReLU, over all images and places."""
    maps: list[torch.Tensor] = []
    hook = suspect.network.get_submodule("layer4").register_forward_hook(lambda _, __, output: maps.append(output))
    with torch.no_grad():
        suspect(as_float(CLEAN.pixels))
    hook.remove()
    order = maps[0].mean((0, 2, 3)).argsort().tolist()
    result = pruning(suspect, CLEAN, HELD_OUT, max_drop=0.1)
    read = result.model.get_parameter("network.fc.weight").any(0)
    gone = [channel for channel in range(64) if not read[channel]]
    assert 0 < len(gone) < 64
    assert sorted(order[: len(gone)]) == gone
    assert result.history[result.chosen_epoch - 1]["pruned"] == len(gone)


def test_the_result_is_the_last_state_before_the_drop(suspect: Classifier) -> None:
    result = pruning(suspect, CLEAN, HELD_OUT, max_drop=0.1)
    before, after = (
        accuracy(logits(model, HELD_OUT.pixels).argmax(1), HELD_OUT.labels) for model in (suspect, result.model)
    )
    assert result.chosen_epoch == len(result.history) - 1
    assert result.history[-2]["held_out_accuracy"] == pytest.approx(after)
    assert before - after < 0.1 <= before - result.history[-1]["held_out_accuracy"]


def test_only_what_reads_the_channels_changes(suspect: Classifier) -> None:
    pruned = pruning(suspect, CLEAN, HELD_OUT).model.state_dict()
    changed = [name for name, value in suspect.state_dict().items() if not torch.equal(value, pruned[name])]
    assert changed == ["network.fc.weight"]


def test_where_nothing_may_be_lost_nothing_is_pruned(suspect: Classifier) -> None:
    result = pruning(suspect, CLEAN, HELD_OUT, max_drop=0.0)
    assert same_state(result.model, suspect)
    assert result.chosen_epoch == 0
    assert [note.code for note in result.notes] == ["nothing_pruned"]
