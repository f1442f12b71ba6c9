from __future__ import annotations

import pytest
import torch

from worker.algorithms.detectors.overlays import any_of, others
from worker.algorithms.errors import UnusableImages


def test_no_image_is_laid_over_itself_and_all_others_are_drawn(generator: torch.Generator) -> None:
    drawn = others(4, 200, generator)
    assert drawn.shape == (4, 200)
    for row, places in enumerate(drawn):
        assert set(places.tolist()) == {0, 1, 2, 3} - {row}


def test_suspicious_images_are_laid_over_any(generator: torch.Generator) -> None:
    assert set(any_of(3, 2, 100, generator).flatten().tolist()) == {0, 1, 2}


def test_one_image_has_no_others(generator: torch.Generator) -> None:
    with pytest.raises(UnusableImages, match="only 1"):
        others(1, 4, generator)
