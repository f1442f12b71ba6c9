from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain import PlainNeuralCleanse, PlainSage, attention_distance, flagged, with_stages
from tests.worker.algorithms.networks import MEAN, STD, noisy_stripes
from worker.algorithms.architectures.small_resnet import resnet18

torch.set_num_threads(1)


def test_the_stages_come_with_the_networks_own_logits() -> None:
    network = resnet18(4, 3, 4).eval()
    x = torch.rand(2, 3, 32, 32)
    logits, stages = with_stages(network, x)
    assert torch.equal(logits, network(x))
    assert [tuple(stage.shape[1:]) for stage in stages] == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]


def test_the_attention_distance_is_that_of_the_formula() -> None:
    shallow, deep = torch.randn(3, 5, 4, 4), torch.randn(3, 7, 4, 4)
    maps = [np.square(features.double().numpy()).sum(1).reshape(3, -1) for features in (shallow, deep)]
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in maps]
    assert attention_distance(shallow, deep).item() == pytest.approx(np.square(unit[0] - unit[1]).mean(), rel=1e-5)


def test_the_plain_side_trains_a_copy_and_its_loss_falls() -> None:
    images = noisy_stripes(64, size=32)
    torch.manual_seed(0)
    network = resnet18(4, 3, 4)
    before = copy.deepcopy(network.state_dict())
    way = PlainSage(network, MEAN, STD, batch_size=16, lr=0.01, beta=300.0, averaging=0.9, augmented=False)
    data = images.pixels, images.labels
    losses = list(itertools.islice(way.epochs(data, data), 4))
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Always(nn.Module):
    """Every image is of one class, whatever it shows."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.eye(4)[label] * 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.bias + 0 * x.mean((1, 2, 3))[:, None]


def test_only_the_label_that_needs_no_trigger_gets_a_small_mask() -> None:
    images = noisy_stripes(32)
    norms = PlainNeuralCleanse(Always(2), steps=40, batch_size=8).norms((images.pixels, images.labels), 4)
    assert [norm == 16 * 16 for norm in norms] == [True, True, False, True]
    assert norms[2] < 128  # where the search starts


def test_the_papers_rule_flags_what_lies_far_below_the_median() -> None:
    # median 50, deviations 48 25 1 0 1 2 3: MAD 2, so the line is at 50 - 2 · 1.4826 · 2 = 44.07
    assert flagged([50, 49, 51, 52, 53, 25, 2]) == [6, 5]
    assert flagged([50, 49, 51, 52, 53, 48, 90]) == []
    assert flagged([7.0] * 5) == []
