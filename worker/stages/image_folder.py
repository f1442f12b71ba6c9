"""A zip of labelled image files to one file of tensors. Runs in the child of `worker/stages/sandbox.py`, for what it
decodes comes from strangers. No torch in here: it would take seconds to import."""

from __future__ import annotations

import encodings.cp437  # noqa: F401  names in zip files; afterwards nothing can be imported
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from worker.stages.archive import Archive, Damaged, open_archive
from worker.stages.decode import Undecodable, decode
from worker.stages.errors import BundleNotUnderstood, BundleTooLarge, EmptyBundle, LabelOutOfRange, UndecodableImages
from worker.stages.zip_directory import Rules

TENSORS = "bundle.safetensors"
CLASSES = "classes.json"
NAMED = 5  # offending files that a message names


@dataclass(frozen=True)
class Limits:
    """What is taken in of one bundle. Decoded images are held in memory, three bytes a colour pixel."""

    files: int = 200_000
    file_bytes: int = 64 * 2**20
    total_bytes: int = 8 * 2**30
    image_pixels: int = 2**24
    decoded_bytes: int = 4 * 2**30


def unpack_images(
    source: Path, out: Path, *, size: list[int], channels: str, num_classes: int, limits: dict[str, int]
) -> dict[str, Any]:
    """Decode the images, resized to `size` (height, width), into `TENSORS` in `out`, a bundle in the other layout:
    sorted by their names in the zip (by code point, the whole path), so that a list of values per image means the same
    to everyone. `channels` is "RGB" or "L"; `limits` are fields of `Limits`.

    Raises `Refused`, and `EmptyBundle`, `UndecodableImages`, `BundleNotUnderstood`, `BundleTooLarge` or
    `LabelOutOfRange`, naming the first files that it is about.
    """
    most = Limits(**limits)
    with open_archive(source, Rules(members=most.files, unpacked=most.total_bytes)) as archive:
        classes = _class_names(archive, num_classes)
        names = [name for name in archive.sizes if not _is_litter(name)]
        if not names:
            raise EmptyBundle("there are no files in the zip, or only hidden ones")
        labels = _labels(names, classes, num_classes)
        check_memory(len(names), channels, size, most)
        with (out / TENSORS).open("wb") as file:
            _write_header(file, labels, (len(names), len(channels), *size))
            _write_pixels(file, archive, names, (size[0], size[1]), channels, most)
    return {"images": len(names)}


def check_memory(count: int, channels: str, size: list[int], limits: Limits) -> None:
    """Raises `BundleTooLarge` where so many images of this size are more than is held in memory."""
    needed = count * len(channels) * size[0] * size[1]
    if needed > limits.decoded_bytes:
        raise BundleTooLarge(
            f"{count} images of {size[0]}×{size[1]} need {needed} bytes, at most {limits.decoded_bytes} are held"
        )


def _write_header(file: BinaryIO, labels: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    """And the labels; of a safetensors file, whose pixels can then come one image after the other."""
    end = labels.nbytes + int(np.prod(shape, dtype=np.int64))
    header = json.dumps(
        {
            "labels": {"dtype": "I64", "shape": labels.shape, "data_offsets": [0, labels.nbytes]},
            "images": {"dtype": "U8", "shape": shape, "data_offsets": [labels.nbytes, end]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)  # numbers of 8 bytes are to lie at a multiple of 8
    file.write(len(header).to_bytes(8, "little") + header + labels.astype("<i8").tobytes())


def _write_pixels(
    file: BinaryIO, archive: Archive, names: list[str], size: tuple[int, int], channels: str, limits: Limits
) -> None:
    failures = []
    for name in names:
        try:
            content = archive.read(name, limits.file_bytes)
            file.write(decode(content, size=size, channels=channels, max_pixels=limits.image_pixels).tobytes())
        except (Undecodable, Damaged) as error:
            failures.append(f"{_shown(name)} ({error})")
            if len(failures) == NAMED:
                break
    if failures:
        raise UndecodableImages(f"cannot decode {', '.join(failures)}")


def _is_litter(name: str) -> bool:
    """What operating systems leave in zip files, and the list of the classes."""
    path = PurePosixPath(name)
    return path.name in (CLASSES, "Thumbs.db") or any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _class_names(archive: Archive, num_classes: int) -> list[str] | None:
    found = [name for name in archive.sizes if PurePosixPath(name).name == CLASSES]
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


def _labels(names: list[str], classes: list[str] | None, num_classes: int) -> NDArray[np.int64]:
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
    return np.array([label_of(name, folder.name) for name, folder in zip(names, folders, strict=True)])


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


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else f"{name[:120]}…")
