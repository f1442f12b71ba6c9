"""The lab's datasets, read from a folder in the file formats in which they are published, into memory as uint8.

| name | files in the folder |
| --- | --- |
| mnist, fashion_mnist | {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, with .gz or without |
| cifar10 | cifar-10-batches-py/ (the Python version), or cifar10-{train,test}.npz (JPEG files back to back) |
| cifar100 | cifar-100-python/ |
| imagenette | train/ and val/ with a folder a class, brought to 224 × 224 |
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets, transforms

from benchmarks.measuring import EXAMPLE
from worker.algorithms.augment import crop, crop_and_flip
from worker.algorithms.data import Images
from worker.algorithms.training import Augment

sys.path.insert(0, str(EXAMPLE))  # for cifar10.py, which stands beside its user there
import cifar10


@dataclass(frozen=True)
class Dataset:
    """`augment` is what the victim trains with, the purifier's `augmentation` the same by name."""

    train: Images
    test: Images
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment
    augmentation: str

    @property
    def in_channels(self) -> int:
        return self.train.pixels.shape[1]


def read(name: str, folder: Path) -> Dataset:
    """Raises `FileNotFoundError` where the folder does not hold the files of the table above."""
    return READERS[name](folder)


def _digits(folder: Path) -> Dataset:
    parts = []
    for part in ("train", "t10k"):
        pixels, labels = _idx(folder / f"{part}-images-idx3-ubyte"), _idx(folder / f"{part}-labels-idx1-ubyte")
        parts.append(Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels).long()))
    # A mirrored digit is another sign, a mirrored shoe is not; one rule for both keeps them comparable.
    return Dataset(parts[0], parts[1], 10, (0.1307,), (0.3081,), crop, "crop")


def _idx(path: Path) -> np.ndarray:
    """The IDX format (LeCun): two zero bytes, the type (8: uint8), the dimensions, their sizes, the values."""
    packed = path.with_name(path.name + ".gz")
    content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name} is no IDX file of unsigned bytes")
    sizes = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes.astype(int)).copy()


def _cifar10(folder: Path) -> Dataset:
    if (folder / "cifar10-train.npz").exists():
        train, test = (cifar10.read(folder / f"cifar10-{part}.npz")[0] for part in ("train", "test"))
    else:
        train, test = (_cifar(datasets.CIFAR10(folder, train=part)) for part in (True, False))
    return Dataset(train, test, 10, cifar10.MEAN, cifar10.STD, crop_and_flip, "crop_and_flip")


def _cifar100(folder: Path) -> Dataset:
    train, test = (_cifar(datasets.CIFAR100(folder, train=part)) for part in (True, False))
    return Dataset(train, test, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), crop_and_flip, "crop_and_flip")


def _cifar(read_by_torchvision: datasets.CIFAR10) -> Images:
    pixels = torch.from_numpy(read_by_torchvision.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(read_by_torchvision.targets))


def _imagenette(folder: Path) -> Dataset:
    to_square = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    parts = []
    for part in ("train", "val"):
        files = datasets.ImageFolder(str(folder / part), to_square)
        parts.append(Images(torch.stack([pixels for pixels, _ in files]), torch.tensor(files.targets)))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Dataset(parts[0], parts[1], 10, mean, std, crop_and_flip, "crop_and_flip")


READERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist": _digits,
    "fashion_mnist": _digits,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenette": _imagenette,
}
