"""What the report says of the clean bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from redeem.report import CleanSummary
from tests.worker import lab
from worker.algorithms.data import Images
from worker.stages.clean_bundle import clean_flags, summary
from worker.stages.fetch import Files
from worker.stages.load import Inputs, load


def inputs(folder: Path, weights: bytes, images: Images) -> Inputs:
    files = Files(folder / "weights", folder / "clean", None)
    files.weights.write_bytes(weights)
    files.clean.write_bytes(lab.tensor_bundle(images))
    return load(files, lab.ARCHITECTURE, lab.PREPROCESSING, None, seed=0, device=torch.device("cpu"))


def of(images: Images, folder: Path, weights: bytes) -> CleanSummary:
    return summary(inputs(folder, weights, images), "0" * 64)


def test_a_usual_bundle_gets_no_flag(tmp_path: Path, weights: bytes) -> None:
    clean = of(lab.paint(80, 1), tmp_path, weights)
    assert (clean.images, clean.train, clean.held_out, clean.report) == (80, 56, 8, 16)
    assert clean.per_class == [20, 20, 20, 20]
    assert clean.duplicates == 0
    assert {flag.code for flag in clean_flags(clean)} <= {"labels_doubted"}


def test_copies_are_counted_whatever_their_label(tmp_path: Path, weights: bytes) -> None:
    images = lab.paint(80, 1)
    pixels = images.pixels.clone()
    pixels[40:43] = pixels[0]
    clean = of(Images(pixels, images.labels), tmp_path, weights)
    assert clean.duplicates == 3
    assert "duplicate_images" in {flag.code for flag in clean_flags(clean)}


def test_labels_in_another_order_are_doubted(tmp_path: Path, suspect: nn.Module, weights: bytes) -> None:
    images = lab.paint(80, 1)
    right = of(images, tmp_path, weights)
    wrong = of(Images(images.pixels, (images.labels + 1) % lab.CLASSES), tmp_path, weights)
    assert wrong.doubted > max(20, 3 * right.doubted)
    (flag,) = [flag for flag in clean_flags(wrong) if flag.code == "labels_doubted"]
    assert f"{wrong.doubted} of 80" in flag.message


@pytest.mark.parametrize(("per_class", "named"), [([30, 4], "1 classes"), ([0, 4, 9], "2 classes"), ([9, 9], None)])
def test_classes_with_few_images_are_named(per_class: list[int], named: str | None) -> None:
    clean = CleanSummary(sha256="0" * 64, images=34, train=20, held_out=4, report=10, per_class=per_class)
    found = [flag.message for flag in clean_flags(clean) if flag.code == "few_images_of_a_class"]
    assert len(found) == (named is not None)
    assert all(named in message for message in found if named)
