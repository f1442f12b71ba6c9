from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.worker.algorithms.networks import small_classifier
from worker.algorithms.layout import layout

CPU, GPU = torch.device("cpu"), torch.device("cuda")

TRAIN_A_NARROW_NETWORK = """
import torch
from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.augment import unchanged
from worker.algorithms.training import fit

torch.set_num_threads(1)
model = small_classifier(width=4)
losses = list(fit(model, noisy_stripes(64), augment=unchanged, epochs=6, batch_size=16, lr=0.05))
assert losses[-1] < losses[0], losses
"""


@pytest.mark.parametrize(
    ("width", "device", "expected"),
    [
        (4, CPU, torch.contiguous_format),
        (8, CPU, torch.contiguous_format),
        (16, CPU, torch.channels_last),
        (4, GPU, torch.channels_last),
    ],
)
def test_channels_last_where_it_is_safe(width: int, device: torch.device, expected: torch.memory_format) -> None:
    assert layout(small_classifier(width=width), device) == expected


def test_only_strided_convolutions_of_one_pixel_and_few_channels_count() -> None:
    safe = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 32, 1, stride=2))
    assert layout(safe, CPU) == torch.channels_last
    grouped = nn.Conv2d(64, 64, 1, stride=2, groups=8)
    assert layout(grouped, CPU) == torch.contiguous_format


def test_a_very_narrow_network_is_trained_without_a_crash() -> None:
    """In channels last this process dies of a damaged heap on CPUs with AVX2."""
    done = subprocess.run([sys.executable, "-c", TRAIN_A_NARROW_NETWORK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
