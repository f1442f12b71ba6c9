"""A bundle of labelled images: a zip of image files, or a safetensors file of tensors. The first is made the second by
a child process, so no image file is decoded in here."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worker.algorithms.data import Images
from worker.stages import confinement, sandbox
from worker.stages.errors import BundleNotUnderstood, EmptyBundle, LabelOutOfRange, Refused
from worker.stages.image_folder import TENSORS, Limits, check_memory
from worker.stages.tensor_file import check_tensor_file, is_tensor_file

OVERHEAD = 2**20  # bytes of a file of tensors besides the pixels, and a few labels


def read_bundle(
    path: Path, *, size: tuple[int, int], channels: str, num_classes: int, limits: Limits | None = None
) -> Images:
    """The images of a bundle, resized to `size` (height, width).

    `channels` is "RGB" or "L". The images of a zip come sorted by their names in it (by code point, the whole path),
    those of a safetensors file as they are: so a list of values per image means the same to everyone.

    Raises a `StageError`: `EmptyBundle`, `UndecodableImages`, `BundleNotUnderstood`, `BundleTooLarge` or
    `LabelOutOfRange`, naming the first files that it is about; `Refused`, `TruncatedFile`; and what `sandbox.run` does.
    """
    limits = limits or Limits()
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise EmptyBundle("the bundle is an empty file")
    if start.startswith(b"PK"):
        arguments = {"size": size, "channels": channels, "num_classes": num_classes, "limits": asdict(limits)}
        with tempfile.TemporaryDirectory(prefix="redeem-bundle-") as folder:
            out = Path(folder) / "images"
            sandbox.run("unpack_images", path, out, arguments, _reading(limits))
            return _from_tensors(out / TENSORS, size, channels, num_classes, limits)
    if is_tensor_file(start):
        return _from_tensors(path, size, channels, num_classes, limits)
    raise BundleNotUnderstood("the bundle is neither a zip nor a safetensors file")


def _reading(limits: Limits) -> confinement.Limits:
    """One image at a time is in memory: the file, its pixels as they are, as colours, and resized; and the zip's table
    of contents."""
    memory = limits.file_bytes + 12 * limits.image_pixels + 2**29
    written = limits.decoded_bytes + 8 * limits.files + OVERHEAD
    return confinement.Limits(memory=memory, cpu=900, wall=1800, file=written)


def _from_tensors(path: Path, size: tuple[int, int], channels: str, num_classes: int, limits: Limits) -> Images:
    depth = 3 if channels == "RGB" else 1
    check_tensor_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_tensors(found, depth, channels)
            count = found["images"][1][0]
            for held in (tuple(found["images"][1][2:]), size):
                check_memory(count, channels, list(held), limits)
            pixels, labels = file.get_tensor("images"), file.get_tensor("labels")
    except SafetensorError as error:
        raise Refused("safetensors_rejected", f"not a well-formed safetensors file: {error}") from error
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
