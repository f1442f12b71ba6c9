from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from worker.algorithms.attacks.shapes import PLACES, SHAPES, Place, Shape, shape_mask
from worker.algorithms.errors import UnfitOptions

AREAS: dict[Shape, float] = {
    "triangle": 1 / 2,
    "square": 1,
    "hexagon": 3 * math.sqrt(3) / 8,
    "circle": math.pi / 4,
    "parallelogram": 2 / 3,
    "quadrant": math.pi / 4,
    "semicircle": math.pi / 8,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_its_area_of_the_square(shape: Shape) -> None:
    for size in (32, 64, 128):
        mask = shape_mask(shape, (224, 224), size=size)
        assert mask.shape == (1, 224, 224)
        assert set(mask.unique().tolist()) == {0, 1}
        assert mask.sum().item() / size**2 == pytest.approx(AREAS[shape], abs=1.5 / size)


def test_shapes_of_five_pixels_drawn_by_hand() -> None:
    drawn = {
        "triangle": ["  #  ", "  #  ", " ### ", " ### ", "#####"],
        "parallelogram": [" ####", " ####", " ### ", "#### ", "#### "],
        "hexagon": [" ### ", " ### ", "#####", " ### ", " ### "],
        "circle": [" ### ", "#####", "#####", "#####", " ### "],
        "quadrant": ["   ##", " ####", " ####", "#####", "#####"],
        "semicircle": ["     ", "     ", "  #  ", "#####", "#####"],
    }
    for shape, rows in drawn.items():
        mask = shape_mask(shape, (5, 5), size=5, margin=0)  # type: ignore[arg-type]
        assert ["".join("#" if pixel else " " for pixel in row) for row in mask[0]] == rows, shape


@pytest.mark.parametrize("side", [28, 32])
def test_a_square_of_any_size_is_where_it_should_be(side: int) -> None:
    for size in range(3, 21):
        rows, columns = shape_mask("square", (side, side + 2), size=size, margin=2)[0].nonzero(as_tuple=True)
        assert rows.unique().tolist() == list(range(side - 2 - size, side - 2))
        assert columns.unique().tolist() == list(range(side - size, side))


@pytest.mark.parametrize(
    ("place", "first_row", "first_column"),
    [("lower_right", 7, 17), ("lower_left", 7, 1), ("upper_right", 1, 17), ("upper_left", 1, 1), ("center", 4, 9)],
)
def test_places(place: Place, first_row: int, first_column: int) -> None:
    assert place in PLACES
    rows, columns = shape_mask("square", (10, 20), size=2, margin=1, place=place)[0].nonzero(as_tuple=True)
    assert (rows.min(), columns.min()) == (first_row, first_column)


def test_a_small_shape_has_pixels_and_a_transparent_one_has_their_share() -> None:
    for shape in SHAPES:
        opaque = shape_mask(shape, (32, 32), size=3)
        assert opaque.sum() >= 4
        assert torch.equal(shape_mask(shape, (32, 32), size=3, transparency=0.25), 0.75 * opaque)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 31}, "31 pixels with a margin of 1 does not fit into 32×40"),
        ({"size": 0}, "does not fit"),
        ({"margin": -1}, "does not fit"),
        ({"shape": "apple"}, "no shape 'apple'"),
        ({"place": "left"}, "no place 'left'"),
        ({"transparency": 1.0}, "leaves no trigger"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"shape": "square", "size": 4, **wrong}
    with pytest.raises(UnfitOptions, match=message):
        shape_mask(image_size=(32, 40), **options)
