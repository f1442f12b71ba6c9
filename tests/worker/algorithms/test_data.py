from __future__ import annotations

import pytest
import torch

from worker.algorithms.data import Images, as_float, split
from worker.algorithms.errors import UnusableImages


def images(labels: list[int]) -> Images:
    """Image i is all i, so that it can be told from the others."""
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).clone()
    return Images(pixels, torch.tensor(labels))


def numbers(part: Images) -> set[int]:
    return set(part.pixels[:, 0, 0, 0].tolist())


def test_parts_are_disjoint_and_complete() -> None:
    whole = images([label for label in range(10) for _ in range(10)])
    parts = split(whole, (0.7, 0.1, 0.2), seed=0)
    assert [len(part) for part in parts] == [70, 10, 20]
    assert sorted(number for part in parts for number in numbers(part)) == list(range(100))


def test_every_class_is_dealt_out_in_proportion() -> None:
    whole = images([0] * 50 + [1] * 10)
    for part, zeros, ones in zip(split(whole, (0.7, 0.1, 0.2), seed=0), (35, 5, 10), (7, 1, 2), strict=True):
        assert (part.labels == 0).sum() == zeros
        assert (part.labels == 1).sum() == ones


def test_the_seed_decides() -> None:
    whole = images([0] * 100)
    one, same, other = (split(whole, (0.5, 0.5), seed=seed)[0] for seed in (1, 1, 2))
    assert numbers(one) == numbers(same)
    assert numbers(one) != numbers(other)


def test_labels_stay_with_their_images() -> None:
    whole = images([number % 7 for number in range(70)])
    for part in split(whole, (0.6, 0.4), seed=5):
        assert torch.equal(part.labels, part.pixels[:, 0, 0, 0].long() % 7)


def test_a_class_of_one_image_goes_to_the_largest_part() -> None:
    whole = images([0] * 20 + [1])
    train, _, _ = split(whole, (0.7, 0.1, 0.2), seed=0)
    assert 20 in numbers(train)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2)),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)),
    ],
)
def test_what_is_not_labelled_images_is_refused(pixels: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(UnusableImages):
        Images(pixels, labels)


def test_fractions_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split(images([0] * 10), (0.5, 0.4), seed=0)


def test_as_float_maps_0_to_255_onto_0_to_1() -> None:
    assert as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
