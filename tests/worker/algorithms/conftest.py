from __future__ import annotations

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.attacks.badnets import badnets
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.attacks.wanet import wanet
from worker.algorithms.augment import crop
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.training import fit

TARGET = 0


@pytest.fixture(scope="session")
def poisoned() -> Poisoned:
    return badnets(noisy_stripes(1200, seed=1), target=TARGET, rate=0.1, margin=2, seed=0)


@pytest.fixture(scope="session")
def suspect(poisoned: Poisoned) -> Classifier:
    """A network with a real backdoor: trained on poisoned images with augmentation. Do not change it."""
    return trained_on(poisoned.images)


@pytest.fixture(scope="session")
def benign() -> Classifier:
    """The suspect's twin, trained the same way on clean images. Do not change it."""
    return trained_on(noisy_stripes(1200, seed=1))


@pytest.fixture(scope="session")
def warped_suspect() -> Classifier:
    """A network whose trigger is a warp for label 0. Do not change it."""
    return trained_on(wanet(noisy_stripes(1200, seed=1), rate=0.15, cover_rate=0.0, strength=3.0).images)


def trained_on(images: Images) -> Classifier:
    model = small_classifier(seed=0)
    list(fit(model, images, augment=crop, epochs=10, batch_size=32, lr=0.05, seed=0))
    model.zero_grad()
    return model.eval()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
