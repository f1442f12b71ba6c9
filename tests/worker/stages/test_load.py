"""From files to a network and images: what fits together, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from redeem.contract import Preprocessing
from tests.worker import lab
from worker.algorithms.architectures import dump
from worker.algorithms.data import Images
from worker.algorithms.metrics import logits
from worker.stages.errors import BundleTooSmall, LabelOutOfRange, StageError, TargetsMismatch, UnfitPreprocessing
from worker.stages.fetch import Files
from worker.stages.load import Inputs, load, rebuilt, split_clean

CPU = torch.device("cpu")
CLEAN = lab.paint(80, 1)


def loaded_from(
    folder: Path,
    weights: bytes,
    *,
    triggered: Images | None = None,
    target: int | list[int] | None = None,
    preprocessing: Preprocessing = lab.PREPROCESSING,
    seed: int = 0,
) -> Inputs:
    """What the stage makes of a client's files."""
    files = Files(folder / "weights", folder / "clean", folder / "triggered" if triggered else None)
    files.weights.write_bytes(weights)
    files.clean.write_bytes(lab.tensor_bundle(CLEAN))
    if files.triggered is not None and triggered is not None:
        files.triggered.write_bytes(lab.tensor_bundle(triggered))
    return load(files, lab.ARCHITECTURE, preprocessing, target, seed=seed, device=CPU)


def test_a_suspect_answers_as_it_did_where_it_came_from(tmp_path: Path, suspect: nn.Module, weights: bytes) -> None:
    inputs = loaded_from(tmp_path, weights)
    x = (CLEAN.pixels / 255 - 0.5) / 0.25
    with torch.no_grad():
        torch.testing.assert_close(inputs.suspect(CLEAN.pixels / 255), suspect(x))
    assert (inputs.loaded.num_classes, inputs.loaded.options) == (lab.CLASSES, {"width": lab.WIDTH})
    assert not inputs.suspect.training
    assert inputs.triggered is None


def test_the_parts_are_disjoint_and_of_every_class(tmp_path: Path, weights: bytes) -> None:
    clean = loaded_from(tmp_path, weights).clean
    parts = (clean.train, clean.held_out, clean.report)
    assert [len(part) for part in parts] == [56, 8, 16]
    assert all(len(torch.unique(part.labels)) == lab.CLASSES for part in parts)
    flat = torch.cat([part.pixels for part in parts]).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 80
    other = loaded_from(tmp_path, weights, seed=1).clean
    assert not torch.equal(other.report.pixels, clean.report.pixels)


@pytest.mark.parametrize(("target", "expected"), [(2, [2, 2, 2]), ([0, 1, 3], [0, 1, 3])])
def test_targets(tmp_path: Path, weights: bytes, target: int | list[int], expected: list[int]) -> None:
    triggered = loaded_from(tmp_path, weights, triggered=lab.paint(3, 0), target=target).triggered
    assert triggered is not None
    assert (triggered.targets.tolist(), triggered.targets.dtype) == (expected, torch.int64)
    assert triggered.images.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (4, LabelOutOfRange),
        (2**70, LabelOutOfRange),
        ([0, 1, 4], LabelOutOfRange),
        ([0, 1], TargetsMismatch),
        ([], TargetsMismatch),
    ],
)
def test_targets_that_cannot_be(
    tmp_path: Path, weights: bytes, target: int | list[int], error: type[StageError]
) -> None:
    with pytest.raises(error):
        loaded_from(tmp_path, weights, triggered=lab.paint(3, 0), target=target)


def test_a_grey_preprocessing_does_not_fit_a_colour_network(tmp_path: Path, weights: bytes) -> None:
    grey = Preprocessing(size=(16, 16), mean=[0.5], std=[0.5], channels="L")
    with pytest.raises(UnfitPreprocessing, match="takes 3 channels"):
        loaded_from(tmp_path, weights, preprocessing=grey)


def images_a_class(*counts: int) -> Images:
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    return Images(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), labels)


@pytest.mark.parametrize(
    ("counts", "enough"),
    [((10, 9), False), ((10, 10), True), ((5, 5, 5, 5), False), ((1,) * 30, False), ((6, 5, 5, 5), True)],
)
def test_how_many_images_are_enough(counts: tuple[int, ...], enough: bool) -> None:
    images = images_a_class(*counts)
    if enough:
        parts = split_clean(images, 0, CPU)
        assert len(parts.train) + len(parts.held_out) + len(parts.report) == len(images)
        return
    with pytest.raises(BundleTooSmall, match=f"{len(images)} images"):
        split_clean(images, 0, CPU)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_is_rebuilt_answers_as_the_file_says(tmp_path: Path, suspect: nn.Module, prefix: str) -> None:
    inputs = loaded_from(tmp_path, lab.weights_file(suspect, prefix=prefix, dtype=torch.float16))
    state: dict[str, Any] = dump(inputs.loaded, inputs.loaded.network)
    state[f"{prefix}fc.bias"] = state[f"{prefix}fc.bias"] + torch.tensor([0, 99, 0, 0], dtype=torch.float16)
    purified = rebuilt(inputs, state)
    assert set(logits(purified, CLEAN.pixels).argmax(1).tolist()) == {1}
    assert set(logits(inputs.suspect, CLEAN.pixels).argmax(1).tolist()) == {0, 1, 2, 3}
