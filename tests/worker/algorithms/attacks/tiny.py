"""A network that takes a backdoor in a second: two convolutions on noisy stripes."""

from __future__ import annotations

import copy
import functools

import torch
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.aim import Aim, success
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.augment import unchanged
from worker.algorithms.data import Images
from worker.algorithms.training import fit
from worker.algorithms.triggers import Trigger

TRAINING, TEST = noisy_stripes(800, seed=1), noisy_stripes(200, seed=9)


@functools.cache
def tiny_benign() -> nn.Sequential:
    """Trained on `TRAINING`; 32 penultimate units. Do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 4),
        )
    return trained(network, TRAINING)


def implanted(poisoned: Poisoned[Trigger]) -> nn.Sequential:
    """What the attacker gets who trains on from the tiny network."""
    return trained(tiny_benign(), poisoned.images)


def trained(start: nn.Sequential, images: Images) -> nn.Sequential:
    network = copy.deepcopy(start)
    list(fit(network, images, augment=unchanged, epochs=8, batch_size=32, lr=0.05))
    network.zero_grad()
    return network.eval()


def asr(network: nn.Module, aim: Aim[Trigger]) -> float:
    found = success(network, TEST, aim)
    assert found is not None
    return found.asr
