"""Files to memory: the suspect as a network, without unpickling anything, and the bundles as tensors on the device."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from redeem.architectures import ONNX
from redeem.contract import Architecture, Preprocessing
from redeem.scanning import Scan
from worker.algorithms import architectures
from worker.algorithms.architectures import Loaded
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, split
from worker.algorithms.errors import UnusableImages
from worker.stages.bundle import read_bundle
from worker.stages.errors import BundleTooSmall, LabelOutOfRange, TargetsMismatch, UnfitPreprocessing
from worker.stages.fetch import Files
from worker.stages.onnx_suspect import OnnxSuspect, check_same, load_onnx
from worker.stages.weights import Weights, read_weights

FRACTIONS = (0.7, 0.1, 0.2)  # of the clean bundle: to train on, held out for choices, for the MPA of the report
FEWEST = 20


@dataclass(frozen=True)
class CleanParts:
    """The clean bundle, cut in three by class and seed. The MPA of the report is of images that no choice saw."""

    train: Images
    held_out: Images
    report: Images


@dataclass(frozen=True)
class Triggered:
    """Stamped images under their true labels, and the target of each: int64 (N,)."""

    images: Images
    targets: Tensor


@dataclass(frozen=True)
class Inputs:
    """All that a job works on, on its device."""

    loaded: Loaded
    suspect: Classifier
    clean: CleanParts
    triggered: Triggered | None
    onnx: OnnxSuspect | None = None
    """Where the suspect came as an ONNX file."""
    format: str = "safetensors"
    """Of the suspect's file, as a report has it."""
    scan: Scan | None = None


def load(
    files: Files,
    wanted: Architecture,
    preprocessing: Preprocessing,
    target: int | list[int] | None,
    *,
    seed: int,
    device: torch.device,
) -> Inputs:
    """Read and check the three files. Raises StageError or AlgorithmError, with a code, for whatever does not fit."""
    loaded, onnx, weights = _network(files.weights, wanted, preprocessing)
    suspect = Classifier(loaded.network, preprocessing.mean, preprocessing.std).eval()
    _check_preprocessing(suspect, loaded, preprocessing)
    suspect.to(device)
    clean = split_clean(_images(files.clean, preprocessing, loaded.num_classes), seed, device)
    if onnx is not None:
        check_same(onnx, onnx.read.content, suspect, clean.held_out)
    triggered = None
    if files.triggered is not None and target is not None:
        images = _images(files.triggered, preprocessing, loaded.num_classes)
        triggered = Triggered(images.to(device), _targets(target, len(images), loaded.num_classes).to(device))
    if onnx is not None or weights is None:
        return Inputs(loaded, suspect, clean, triggered, onnx, "onnx")
    return Inputs(loaded, suspect, clean, triggered, None, weights.kind, weights.scan)


def _network(
    path: Path, wanted: Architecture, preprocessing: Preprocessing
) -> tuple[Loaded, OnnxSuspect | None, Weights | None]:
    """The network, and the file that it came in, of one kind or the other."""
    if wanted.name == ONNX:
        return *load_onnx(path, wanted, preprocessing.size), None
    weights = read_weights(path)
    chosen = (wanted.num_classes, wanted.in_channels, wanted.options)
    return architectures.load(wanted.name, *chosen, weights.tensors), None, weights


def rebuilt(inputs: Inputs, state: dict[str, Tensor]) -> Classifier:
    """The suspect's network with other weights, as a file holds them: what is measured is what is published."""
    network = copy.deepcopy(inputs.suspect)
    network.network.load_state_dict({key.removeprefix(inputs.loaded.prefix): value for key, value in state.items()})
    return network


def split_clean(images: Images, seed: int, device: torch.device) -> CleanParts:
    if len(images) < FEWEST:
        raise BundleTooSmall(f"the clean bundle has {len(images)} images, and at least {FEWEST} are needed")
    try:
        return CleanParts(*(part.to(device) for part in split(images, FRACTIONS, seed)))
    except UnusableImages as error:
        raise BundleTooSmall(
            f"the clean bundle has {len(images)} images, too few of each class to hold some out and measure with others"
        ) from error


def _check_preprocessing(suspect: Classifier, loaded: Loaded, preprocessing: Preprocessing) -> None:
    """One image in the size and with the channels that were given has to go through."""
    given = f"{preprocessing.size[0]}×{preprocessing.size[1]} {preprocessing.channels}"
    if len(preprocessing.mean) != loaded.in_channels:
        raise UnfitPreprocessing(f"the network takes {loaded.in_channels} channels, and images would be {given}")
    try:
        with torch.no_grad():
            suspect(torch.zeros(1, loaded.in_channels, *preprocessing.size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UnfitPreprocessing(f"the network cannot take images of {given}: {error}") from error


def _images(path: Path, preprocessing: Preprocessing, num_classes: int) -> Images:
    return read_bundle(path, size=preprocessing.size, channels=preprocessing.channels, num_classes=num_classes)


def _targets(target: int | list[int], count: int, num_classes: int) -> Tensor:
    targets = [target] * count if isinstance(target, int) else target
    if len(targets) != count:
        raise TargetsMismatch(f"{len(targets)} targets were given for {count} triggered images")
    if max(targets) >= num_classes:
        raise LabelOutOfRange(f"the target {max(targets)} was given, the network has {num_classes} classes")
    return torch.tensor(targets)
