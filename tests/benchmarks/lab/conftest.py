from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.lab import datasets, profiles
from benchmarks.lab.datasets import Dataset
from benchmarks.lab.profiles import Profile
from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.augment import crop

torch.set_num_threads(1)

TINY = Profile(
    "tiny",
    width=8,
    images=800,
    epochs=8,
    lr=0.05,
    tune_epochs=1,
    tune_lr=0.01,
    test_images=200,
    batch_size=32,
    attacks={"badnets": {"margin": 2, "rate": 0.2}},
    purifiers={"sage": {"epochs": 1}, "fine_tuning": {"epochs": 1}},
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the suspects: each is trained once a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_lab(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Stripes under the name of CIFAR-10, and a profile for them."""
    data = Dataset(noisy_stripes(3300, seed=1), noisy_stripes(300, seed=2), 4, (0.5,) * 3, (0.25,) * 3, crop, "crop")
    monkeypatch.setitem(datasets.READERS, "cifar10", lambda folder: data)
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    return data
