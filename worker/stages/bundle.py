"""A bundle of labelled images, from a zip file of image files or from a safetensors file of tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worker.algorithms.data import Images
from worker.stages.archive import Archive, Damaged, open_archive
from worker.stages.decode import Undecodable, decode
from worker.stages.errors import (
    BundleNotUnderstood,
    BundleTooLarge,
    EmptyBundle,
    LabelOutOfRange,
    UndecodableImages,
)

CLASSES = "classes.json"
NAMED = 5  # offending files that a message names


@dataclass(frozen=True)
class Limits:
    """What is taken in of one bundle. Decoded images are held in memory, three bytes a colour pixel."""

    files: int = 200_000
    file_bytes: int = 64 * 2**20
    total_bytes: int = 8 * 2**30
    image_pixels: int = 2**25
    decoded_bytes: int = 4 * 2**30


def read_bundle(
    path: Path, *, size: tuple[int, int], channels: str, num_classes: int, limits: Limits | None = None
) -> tuple[Images, list[str] | None]:
    """The images of a bundle, resized to `size` (height, width), and the class names where the bundle tells them.

    `channels` is "RGB" or "L". The images of a zip come sorted by their names in it (by code point, the whole path),
    those of a safetensors file as they are: so a list of values per image means the same to everyone.

    Raises a `StageError`: `EmptyBundle`, `UndecodableImages`, `BundleNotUnderstood`, `BundleTooLarge` or
    `LabelOutOfRange`, naming the first files that it is about.
    """
    limits = limits or Limits()
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise EmptyBundle("the bundle is an empty file")
    if start.startswith(b"PK"):
        return _from_zip(path, size, channels, num_classes, limits)
    if start[8:] == b"{":
        return _from_tensors(path, size, channels, num_classes, limits), None
    raise BundleNotUnderstood("the bundle is neither a zip nor a safetensors file")


def _from_zip(
    path: Path, size: tuple[int, int], channels: str, num_classes: int, limits: Limits
) -> tuple[Images, list[str] | None]:
    with open_archive(path, max_members=limits.files, max_bytes=limits.total_bytes) as archive:
        classes = _class_names(archive, num_classes)
        names = [name for name in archive.names if not _is_litter(name)]
        if not names:
            raise EmptyBundle("there are no files in the zip, or only hidden ones")
        labels = _labels(names, classes, num_classes)
        _check_memory(len(names), channels, size, limits)
        pixels = torch.empty((len(names), 3 if channels == "RGB" else 1, *size), dtype=torch.uint8)
        failures = []
        for image, name in zip(pixels, names, strict=True):
            try:
                content = archive.read(name, limits.file_bytes)
                image.copy_(decode(content, size=size, channels=channels, max_pixels=limits.image_pixels))
            except (Undecodable, Damaged) as error:
                failures.append(f"{_shown(name)} ({error})")
                if len(failures) == NAMED:
                    break
        if failures:
            raise UndecodableImages(f"cannot decode {', '.join(failures)}")
    return Images(pixels, labels), classes


def _is_litter(name: str) -> bool:
    """What operating systems leave in zip files, and the list of the classes."""
    path = PurePosixPath(name)
    return path.name in (CLASSES, "Thumbs.db") or any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _class_names(archive: Archive, num_classes: int) -> list[str] | None:
    found = [name for name in archive.names if PurePosixPath(name).name == CLASSES]
    if not found:
        return None
    try:
        classes = json.loads(archive.read(found[0], limit=2**24))
    except (ValueError, RecursionError, Damaged) as error:
        raise BundleNotUnderstood(f"{_shown(found[0])} is not JSON: {error}") from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise BundleNotUnderstood(
            f'{_shown(found[0])} must be a list of the class names in order, as in ["cat", "dog"]'
        )
    if len(set(classes)) != len(classes) or len(found) > 1:
        raise BundleNotUnderstood(f"{CLASSES} must be there once, and name each class once")
    if len(classes) != num_classes:
        raise LabelOutOfRange(f"{CLASSES} names {len(classes)} classes, the network has {num_classes}")
    return classes


def _labels(names: list[str], classes: list[str] | None, num_classes: int) -> Tensor:
    """Each image's label, from the folder that it is in."""
    folders = [PurePosixPath(name).parent for name in names]
    roots = sorted({str(folder.parent) for folder in folders})
    outside = next((name for name, folder in zip(names, folders, strict=True) if not folder.name), None)
    if outside is not None:
        raise BundleNotUnderstood(f"{_shown(outside)} is in no folder, so it has no label")
    if len(roots) > 1:
        raise BundleNotUnderstood(
            f"the folders of the classes must lie side by side, not in {_shown(', '.join(roots))}"
        )
    label_of = _by_name(classes) if classes and _all_in(folders, classes) else _by_number(num_classes, classes)
    return torch.tensor([label_of(name, folder.name) for name, folder in zip(names, folders, strict=True)])


def _all_in(folders: list[PurePosixPath], classes: list[str]) -> bool:
    return {folder.name for folder in folders} <= set(classes)


def _by_name(classes: list[str]) -> Callable[[str, str], int]:
    index = {name: label for label, name in enumerate(classes)}
    return lambda _name, folder: index[folder]


def _by_number(num_classes: int, classes: list[str] | None) -> Callable[[str, str], int]:
    def label(name: str, folder: str) -> int:
        if not (folder.isascii() and folder.isdecimal() and len(folder) < 10):
            expected = f"{CLASSES} does not name it" if classes else f"there is no {CLASSES} to say which class it is"
            raise BundleNotUnderstood(f"the folder of {_shown(name)} is not a number, and {expected}")
        if int(folder) >= num_classes:
            raise LabelOutOfRange(f"{_shown(name)} has the label {int(folder)}, the network has {num_classes} classes")
        return int(folder)

    return label


def _from_tensors(path: Path, size: tuple[int, int], channels: str, num_classes: int, limits: Limits) -> Images:
    depth = 3 if channels == "RGB" else 1
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_tensors(found, depth, channels)
            count = found["images"][1][0]
            for held in (tuple(found["images"][1][2:]), size):
                _check_memory(count, channels, held, limits)
            pixels, labels = file.get_tensor("images"), file.get_tensor("labels")
    except SafetensorError as error:
        raise BundleNotUnderstood(f"not a well-formed safetensors file: {error}") from error
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        first = int(wrong[0])
        raise LabelOutOfRange(
            f"image {first} has the label {int(labels[first])}, the network has {num_classes} classes"
        )
    return Images(_resized(pixels, size), labels)


def _check_tensors(found: dict[str, tuple[str, list[int]]], depth: int, channels: str) -> None:
    missing = {"images", "labels"} - found.keys()
    if missing:
        raise BundleNotUnderstood(f"the safetensors file has no {' and no '.join(sorted(missing))}")
    (images_dtype, images), (labels_dtype, labels) = found["images"], found["labels"]
    if images_dtype != "U8" or len(images) != 4 or labels_dtype != "I64" or labels != images[:1]:
        raise BundleNotUnderstood(f"`images` is {images_dtype} {images}, and `labels` is {labels_dtype} {labels}")
    if images[0] == 0:
        raise EmptyBundle("`images` holds no image")
    if images[1] != depth or 0 in images:
        raise BundleNotUnderstood(f"`images` is {images}; the preprocessing says {channels}: {depth} channels")


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[2:]) == size:
        return pixels
    parts = [
        F.interpolate(part.float(), size, mode="bilinear", antialias=True).round_().clamp_(0, 255).to(torch.uint8)
        for part in torch.split(pixels, 256)
    ]
    return torch.cat(parts)


def _check_memory(count: int, channels: str, size: tuple[int, ...], limits: Limits) -> None:
    needed = count * len(channels) * size[0] * size[1]
    if needed > limits.decoded_bytes:
        raise BundleTooLarge(
            f"{count} images of {size[0]}×{size[1]} need {needed} bytes, at most {limits.decoded_bytes} are held"
        )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else f"{name[:120]}…")
