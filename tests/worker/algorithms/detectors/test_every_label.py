from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.detectors.every_label import batches, blocks, generator, slopes


def put(values: Tensor, x: Tensor) -> Tensor:
    return x + values


@pytest.mark.parametrize("at_once", [1, 4, 7, 100])
def test_slopes_are_those_of_each_label_alone(at_once: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).requires_grad_(False)
    nn.init.normal_(network[1].weight, generator=generator(1))
    random = generator(0)
    x, values = torch.rand(5, 3, 2, 2, generator=random), torch.rand(3, 3, 2, 2, generator=random)
    targets = torch.tensor([2, 0, 1])
    counts = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]]).float()
    found, hits = slopes(network, put, values, targets, x, counts, at_once)
    for row, label in enumerate(targets):
        value, chosen = values[row].clone().requires_grad_(), x[counts[row] > 0]
        logits = network(chosen + value)
        F.cross_entropy(logits, label.expand(len(chosen))).backward()
        assert value.grad is not None
        assert torch.allclose(found[row], value.grad, atol=1e-3)
        assert hits[row] == (logits.argmax(1) == label).sum()


@pytest.mark.parametrize("at_once", [1, 3, 8, 20, 100])
def test_blocks_cover_every_pair_once(at_once: int) -> None:
    seen = np.zeros((5, 8), dtype=int)
    for rows, columns in blocks(5, 8, at_once):
        assert seen[rows, columns].size <= at_once
        seen[rows, columns] += 1
    assert (seen == 1).all()


def test_close_seeds_give_unrelated_batches() -> None:
    assert torch.equal(batches(100, 3, 8, 1), batches(100, 3, 8, 1))
    assert not torch.equal(batches(100, 3, 8, 1), batches(100, 3, 8, 2))
    one, other = (torch.randn(1000, generator=generator(7, number)) for number in (0, 1))
    assert abs(float((one * other).mean())) < 0.15
