from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.data import Images
from worker.algorithms.metrics import accuracy, accuracy_per_class, attack_success, logits, mean_loss
from worker.algorithms.training import cross_entropy


def triggered(labels: list[int]) -> Images:
    return Images(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), torch.tensor(labels))


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0])) == 0.75


def test_accuracy_per_class_says_none_where_there_is_no_image() -> None:
    predictions, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1])
    assert accuracy_per_class(predictions, labels, 3) == [0.5, 0.5, None]


def test_images_of_the_target_class_do_not_count_as_successes() -> None:
    images, targets = triggered([0, 0, 1, 2]), torch.zeros(4, dtype=torch.int64)
    success = attack_success(torch.tensor([0, 0, 0, 2]), images, targets)
    assert success is not None
    assert (success.asr, success.recovery_accuracy, success.counted) == (0.5, 0.5, 2)


def test_each_image_may_have_its_own_target() -> None:
    images, targets = triggered([1, 2, 3]), torch.tensor([2, 2, 0])
    success = attack_success(torch.tensor([2, 2, 3]), images, targets)
    assert success is not None
    assert (success.asr, success.recovery_accuracy, success.counted) == (0.5, 0.5, 2)


def test_without_an_image_that_counts_nothing_is_said() -> None:
    assert attack_success(torch.tensor([0]), triggered([0]), torch.tensor([0])) is None


def test_logits_do_not_depend_on_the_batch_size_and_keep_the_mode() -> None:
    model, images = small_classifier().train(), noisy_stripes(20)
    whole = logits(model, images.pixels)
    assert torch.allclose(whole, logits(model, images.pixels, batch_size=7), atol=2e-2)
    assert model.training
    assert whole.dtype == torch.float32


def test_mean_loss_is_the_mean_over_images_not_over_batches() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    images = noisy_stripes(10)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(images.pixels.float() / 255), images.labels).item()
    assert mean_loss(model, images, cross_entropy, batch_size=7) == pytest.approx(expected, rel=1e-2)
