from __future__ import annotations

import copy

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors.every_label import images_a_step
from worker.algorithms.detectors.neural_cleanse import NeuralCleanse, neural_cleanse, summary
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.metrics import attack_success, logits


@pytest.fixture(scope="module")
def cleansed(suspect: Classifier) -> NeuralCleanse:
    return neural_cleanse(suspect, noisy_stripes(200, seed=5), num_classes=4, steps=120, seed=0)


def test_the_backdoors_label_has_by_far_the_smallest_trigger(cleansed: NeuralCleanse) -> None:
    norms = cleansed.norms
    assert int(norms.argmin()) == 0
    assert norms[0] < norms[1:].min() / 2
    assert cleansed.triggers.reached[0]


def test_the_reversed_trigger_works(cleansed: NeuralCleanse, suspect: Classifier) -> None:
    images = noisy_stripes(400, seed=11)
    stamped = Images(cleansed.triggers[0].stamp(images.pixels), images.labels)
    success = attack_success(logits(suspect, stamped.pixels).argmax(1), stamped, torch.zeros(400, dtype=torch.int64))
    assert success is not None
    assert success.asr > 0.9


def test_norms_are_those_of_the_masks(cleansed: NeuralCleanse) -> None:
    masks = cleansed.triggers.masks
    assert torch.allclose(cleansed.norms, masks.sum((1, 2, 3)))
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert cleansed.spread.tolist() == [0.0] * 4


def test_the_benign_twin_needs_a_larger_trigger(
    benign: Classifier, cleansed: NeuralCleanse, poisoned: Poisoned
) -> None:
    twin = neural_cleanse(benign, noisy_stripes(200, seed=5), num_classes=4, steps=120, seed=0)
    assert twin.norms[0] > 2 * cleansed.norms[0]


def test_the_model_is_left_as_it_was(suspect: Classifier) -> None:
    model = copy.deepcopy(suspect).train()
    before = copy.deepcopy(model)
    neural_cleanse(model, noisy_stripes(40), num_classes=4, steps=10)
    assert same_state(model, before)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_seed_decides(suspect: Classifier) -> None:
    one, same, other = (
        neural_cleanse(suspect, noisy_stripes(40), num_classes=4, steps=10, seed=seed).triggers.patterns
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_several_seeds_are_several_searches(suspect: Classifier) -> None:
    heard: list[float] = []
    options = {"num_classes": 4, "steps": 20, "batch_size": 8, "asr_threshold": 0.7}
    both = neural_cleanse(suspect, noisy_stripes(40), seeds=2, seed=3, progress=heard.append, **options)  # type: ignore[arg-type]
    first, second = (
        neural_cleanse(suspect, noisy_stripes(40), seed=seed, **options).norms  # type: ignore[arg-type]
        for seed in (3, 4)
    )
    assert torch.allclose(both.norms, (first + second) / 2)
    assert torch.allclose(both.spread, (first - second).abs())
    assert torch.allclose(both.triggers.norms, torch.minimum(first, second))
    assert both.seeds == 2
    assert heard == [0.25, 0.5, 0.75, 1.0]


def test_the_norm_of_several_seeds_is_the_median_and_the_trigger_the_smallest() -> None:
    def found(norms: list[float], reached: list[bool]) -> ReversedTriggers:
        each = torch.tensor(norms)
        full = each[:, None, None, None].expand(-1, 1, 2, 2)
        return ReversedTriggers(full, full, each, torch.tensor(reached))

    together = summary(
        [
            found([9.0, 70.0, 80.0, 90.0, 1024.0], [True, True, True, True, False]),
            found([5.0, 75.0, 1024.0, 60.0, 1024.0], [True, True, False, True, False]),
            found([8.0, 65.0, 85.0, 95.0, 1024.0], [True, True, True, True, False]),
        ],
        pixels=1024,
    )
    assert together.norms.tolist() == [8.0, 70.0, 85.0, 90.0, 1024.0]
    assert together.spread.tolist() == [4.0, 10.0, 944.0, 35.0, 0.0]
    assert together.triggers.norms.tolist() == [5.0, 65.0, 80.0, 60.0, 1024.0]
    assert together.triggers.reached.tolist() == [True, True, True, True, False]
    assert (together.anomaly.median, together.anomaly.mad) == (85.0, 15.0)


@pytest.mark.parametrize(
    ("labels", "images"), [(2, 32), (10, 32), (12, 32), (13, 29), (24, 16), (43, 8), (100, 8), (1000, 8)]
)
def test_a_step_grows_slower_than_the_labels(labels: int, images: int) -> None:
    assert images_a_step(32, labels) == images
    assert images_a_step(4, labels) == 4  # never more than was asked for


class Corner(torch.nn.Module):
    """A bright corner leads to label 0; each of the other 42 labels has a pattern all over the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patterns = torch.randn(42, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        patterned = torch.einsum("nchw,kchw->nk", x - 0.5, patterns)
        return torch.cat([40 * (x[:, :, 0, 0].mean(1, keepdim=True) - 0.6), patterned], dim=1)


def test_many_labels_each_have_a_norm() -> None:
    images = noisy_stripes(86, num_classes=43, seed=5)
    found = neural_cleanse(Corner(), images, num_classes=43, steps=200, seed=0)
    assert found.triggers.reached.all()
    assert found.anomaly.flagged == [0]
    assert found.anomaly.indices[0] == found.anomaly.index > 2
    assert len(found.anomaly.indices) == len(found.norms) == 43


def test_one_label_is_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="compares labels"):
        neural_cleanse(torch.nn.Flatten(), noisy_stripes(4), num_classes=1)
