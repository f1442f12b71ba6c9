"""Zeros in weights, and how far the held-out images let a purifier go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import same_state, small_classifier
from worker.algorithms.errors import UnfitNetwork
from worker.algorithms.purifiers.channels import (
    as_far_as_accuracy_allows,
    batch_norms,
    notes_on,
    put_zeros,
    with_zeros,
)
from worker.algorithms.training import ignore

LABELS = torch.zeros(20, dtype=torch.int64)


def logits_with(wrong: int) -> Tensor:
    """Logits of two classes by which so many of the labels are missed."""
    logits = torch.tensor([[1.0, 0.0]]).repeat(20, 1)
    logits[:wrong] = torch.tensor([0.0, 1.0])
    return logits


def gone(wrong: list[int], max_drop: float) -> tuple[int, list[dict[str, float]]]:
    """How far one goes where `wrong` images are missed after 0, 1, 2, … steps."""
    steps = [{"pruned": float(number)} for number in range(1, len(wrong))]
    return as_far_as_accuracy_allows(
        steps, lambda step: logits_with(wrong[step]), LABELS, max_drop=max_drop, progress=ignore
    )


@pytest.mark.parametrize(
    ("wrong", "max_drop", "chosen", "seen"),
    [
        ([0, 0, 1, 2, 3], 0.1, 2, 3),  # a tenth of twenty is two: lost at the third step
        ([3, 3, 4, 5, 6], 0.1, 2, 3),  # of what the suspect has right, not of everything
        ([0, 1, 0, 0, 0], 0.05, 0, 1),  # the first step is too dear, whatever comes after it
        ([0, 0, 0, 0, 0], 0.05, 4, 4),  # nothing is ever lost
        ([2, 1, 0, 1, 2], 0.05, 4, 4),  # pruning may help
        ([0, 0, 0, 0, 0], 0.0, 0, 1),  # nothing may be lost, and nothing is won: all stays
        ([5], 0.05, 0, 0),  # no steps to take
    ],
)
def test_the_last_step_before_the_drop(wrong: list[int], max_drop: float, chosen: int, seen: int) -> None:
    found, history = gone(wrong, max_drop)
    assert found == chosen
    assert [entry["epoch"] for entry in history] == list(range(1, seen + 1))


def test_the_history_says_what_was_measured() -> None:
    _, history = gone([0, 5, 10], 1.0)
    right, missed = -torch.log_softmax(torch.tensor([1.0, 0.0]), 0).double()
    assert history == [
        {
            "epoch": 1,
            "pruned": 1,
            "held_out_loss": pytest.approx(right * 0.75 + missed * 0.25),
            "held_out_accuracy": 0.75,
        },
        {"epoch": 2, "pruned": 2, "held_out_loss": pytest.approx(right * 0.5 + missed * 0.5), "held_out_accuracy": 0.5},
    ]


def test_zeros_go_where_they_are_told_and_nowhere_else() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows, columns = torch.tensor([True, False, True]), torch.arange(12) < 4
    pruned = with_zeros(model, {"0.weight": rows[:, None, None, None], "0.bias": rows, "2.weight": columns})
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    after = pruned.state_dict()
    assert not after["0.weight"][rows].any()
    assert torch.equal(after["0.weight"][1], before["0.weight"][1])
    assert torch.equal(after["0.bias"] != 0, ~rows)
    assert not after["2.weight"][:, :4].any()
    assert torch.equal(after["2.weight"][:, 4:], before["2.weight"][:, 4:])
    assert torch.equal(after["2.bias"], before["2.bias"])
    put_zeros(model, {"0.weight": rows[:, None, None, None], "0.bias": rows, "2.weight": columns})
    assert same_state(model, pruned)


def test_batch_norms_are_those_that_have_weights_and_statistics() -> None:
    found = batch_norms(small_classifier())
    assert len(found) == 20
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in found.values())
    bare = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 3, 1)
    )
    with pytest.raises(UnfitNetwork, match="no batch norm") as error:
        batch_norms(bare)
    assert error.value.code == "unfit_network"


def test_a_note_where_nothing_was_pruned() -> None:
    assert notes_on(1, "of this") == []
    (note,) = notes_on(0, "of that")
    assert note.code == "nothing_pruned"
    assert "of that" in note.message
