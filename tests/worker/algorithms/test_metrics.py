from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.data import Images
from worker.algorithms.metrics import (
    accuracy,
    accuracy_drop,
    accuracy_per_class,
    attack_success,
    drop_interval,
    logits,
    wilson_interval,
)


def triggered(labels: list[int]) -> Images:
    return Images(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), torch.tensor(labels))


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0])) == 0.75


def test_accuracy_per_class_says_none_where_there_is_no_image() -> None:
    predictions, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1])
    assert accuracy_per_class(predictions, labels, 3) == [0.5, 0.5, None]


def test_half_a_batch_is_predicted_where_the_memory_does_not_hold_the_whole() -> None:
    model, images, sizes = small_classifier().train(), noisy_stripes(50), []
    expected = logits(model, images.pixels)

    def hungry(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if sizes[-1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(hungry)
    torch.testing.assert_close(logits(model, images.pixels, batch_size=64), expected)
    assert sizes == [50, 32, 16, 16, 16, 2]
    assert model.training


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


def test_the_drop_is_counted_image_by_image() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    before, after = torch.tensor([0, 1, 2, 3, 0, 0, 0, 0]), torch.tensor([0, 1, 0, 0, 1, 1, 1, 1])
    drop = accuracy_drop(before, after, labels)
    assert (drop.lost, drop.gained) == (3, 1)
    assert drop.drop == 0.25 == accuracy(before, labels) - accuracy(after, labels)
    assert drop.interval == drop_interval(3, 1, 8)
    unchanged = accuracy_drop(before, before, labels)
    assert (unchanged.drop, unchanged.lost, unchanged.gained) == (0.0, 0, 0)


def test_the_interval_of_a_drop_by_hand() -> None:
    """The example of Fagerland et al. (2014): of 21 pairs 1 differs one way and 7 the other."""
    low, high = drop_interval(1, 7, 21)
    margin = 1.959964 * math.sqrt((2 / 23 + 8 / 23 - (6 / 23) ** 2) / 23)
    assert (low, high) == pytest.approx((-6 / 23 - margin, -6 / 23 + margin), abs=1e-6)
    assert drop_interval(7, 1, 21) == pytest.approx((-high, -low))
    assert drop_interval(0, 0, 203)[1] == pytest.approx(1.959964 * math.sqrt(2) / 205, abs=1e-6)
    assert drop_interval(20, 0, 20)[1] == 1.0


@pytest.mark.parametrize("count", [20, 60, 203])
@pytest.mark.parametrize(("lost", "gained"), [(0.03, 0.018), (0.05, 0.02), (0.06, 0.01), (0.02, 0.0), (0.1, 0.05)])
def test_the_interval_of_a_drop_covers_the_true_one(count: int, lost: float, gained: float) -> None:
    """By simulation: `lost` and `gained` are the true shares of images that change sides."""
    tries = 4000
    counts = np.random.default_rng(count).multinomial(count, [lost, gained, 1 - lost - gained], size=tries)
    outcomes, often = np.unique(counts[:, :2], axis=0, return_counts=True)
    intervals = [drop_interval(int(b), int(c), count) for b, c in outcomes]
    covered = sum(n for n, (low, high) in zip(often, intervals, strict=True) if low <= lost - gained <= high) / tries
    assert covered >= 0.94  # three standard errors of the simulation below 0.95
    width = np.average([high - low for low, high in intervals], weights=often)
    assert width < 4 * math.sqrt((lost + gained + 2 / count) / count)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (1, 7), (5, 10), (174, 203), (10, 10)])
def test_wilsons_ends_are_where_the_score_test_turns(successes: int, count: int) -> None:
    share = successes / count
    for end in wilson_interval(share, count):
        assert 0 <= end <= 1
        deviation = 1.959964 * math.sqrt(end * (1 - end) / count)
        assert abs(share - end) == pytest.approx(deviation, abs=1e-6)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
