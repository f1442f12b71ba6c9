"""Bundles: both layouts, and what strangers may send instead."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from worker.algorithms.data import Images
from worker.stages.bundle import read_bundle
from worker.stages.errors import (
    BundleNotUnderstood,
    BundleTooLarge,
    EmptyBundle,
    LabelOutOfRange,
    Refused,
    StageError,
    UndecodableImages,
)
from worker.stages.image_folder import TENSORS, Limits, unpack_images

RED, GRAY = (200, 30, 40), 77


def encoded(
    mode: str = "RGB", color: Any = RED, size: tuple[int, int] = (8, 8), kind: str = "PNG", **how: Any
) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind, **how)
    return file.getvalue()


def zipped(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(
    path: Path, *, size: tuple[int, int] = (8, 8), channels: str = "RGB", num_classes: int = 3, **limits: int
) -> Images:
    """What `read_bundle` does, with the child's part done here: hundreds of files in seconds."""
    if path.read_bytes()[:2] == b"PK":
        out = path.with_name("out")
        out.mkdir(exist_ok=True)
        unpack_images(path, out, size=list(size), channels=channels, num_classes=num_classes, limits=limits)
        path = out / TENSORS
    return read_bundle(path, size=size, channels=channels, num_classes=num_classes, limits=Limits(**limits))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


# What is taken -----------------------------------------------------------------------------------------------------


def test_folders_with_numbers(path: Path) -> None:
    colors = {"2/a.png": (1, 2, 3), "0/z.png": (4, 5, 6), "10/b.png": (7, 8, 9)}
    images = read(zipped(path, {name: encoded(color=color) for name, color in colors.items()}), num_classes=11)
    assert images.labels.tolist() == [0, 10, 2]  # sorted by the whole name: "0/z", "10/b", "2/a"
    assert images.pixels[:, :, 0, 0].tolist() == [[4, 5, 6], [7, 8, 9], [1, 2, 3]]
    assert images.pixels.shape == (3, 3, 8, 8)


def test_named_folders_with_classes(path: Path) -> None:
    members = {"b/cat/1.png": encoded(), "b/dog/1.png": encoded(), "b/classes.json": b'["dog", "bird", "cat"]'}
    images = read(zipped(path, members))
    assert images.labels.tolist() == [2, 0]


def test_numbered_folders_may_have_class_names_beside_them(path: Path) -> None:
    images = read(zipped(path, {"1/1.png": encoded(), "classes.json": b'["dog", "bird", "cat"]'}))
    assert images.labels.tolist() == [1]


def test_litter_is_left_out(path: Path) -> None:
    litter = {"__MACOSX/0/._a.png": b"x", "0/.DS_Store": b"x", "0/Thumbs.db": b"x", "0/": b""}
    images = read(zipped(path, {"0/a.png": encoded(), **litter}))
    assert len(images) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats(path: Path, kind: str) -> None:
    images = read(zipped(path, {"0/a": encoded(kind=kind)}, zipfile.ZIP_DEFLATED))
    assert (images.pixels[0, :, 4, 4].int() - torch.tensor(RED)).abs().max() <= 5


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (encoded("L", GRAY), [GRAY] * 3),
        (encoded("LA", (GRAY, 0)), [GRAY] * 3),
        (encoded("1", 1), [255] * 3),
        (encoded("RGBA", (*RED, 128)), list(RED)),
        (encoded("P", 0), [0, 0, 0]),
        (encoded("P", 0, transparency=b"\x00\x80"), [0, 0, 0]),
        (encoded("L", GRAY, transparency=3), [GRAY] * 3),
    ],
)
def test_every_kind_of_png_becomes_colour(path: Path, image: bytes, expected: list[int]) -> None:
    images = read(zipped(path, {"0/a.png": image}))
    assert images.pixels[0, :, 0, 0].tolist() == expected


def test_colour_becomes_gray(path: Path) -> None:
    images = read(zipped(path, {"0/a.png": encoded()}), channels="L")
    assert images.pixels.shape == (1, 1, 8, 8)
    assert set(images.pixels.flatten().tolist()) == {round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])}


def stripes(side: int) -> Any:
    """Two bright columns in eight, where a shrinking to an eighth without antialiasing would look."""
    bright = np.isin(np.arange(side) % 8, (3, 4)).astype(np.uint8) * 254
    return np.broadcast_to(bright[None, :, None], (side, side, 3)).copy()


def test_other_sizes_are_resized_with_antialiasing_in_both_layouts(path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(stripes(64)).save(file, "PNG")
    from_zip = read(zipped(path, {"0/a.png": file.getvalue()}), size=(8, 8))
    pixels = torch.from_numpy(stripes(64)).permute(2, 0, 1)[None].contiguous()
    save_file({"images": pixels, "labels": torch.tensor([0])}, path)
    from_tensors = read(path, size=(8, 8))
    for images in (from_zip, from_tensors):
        assert images.pixels.shape == (1, 3, 8, 8)
        assert 50 < images.pixels[:, :, 1:-1, 1:-1].float().mean() < 128  # without it: 254


def test_tensors(path: Path) -> None:
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    save_file({"images": pixels, "labels": torch.tensor([2, 0, 1, 1, 0])}, path)
    images = read(path)
    assert torch.equal(images.pixels, pixels)
    assert images.labels.tolist() == [2, 0, 1, 1, 0]


# What is not understood --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ({}, EmptyBundle, "no files"),
        ({"0/.hidden": b""}, EmptyBundle, "no files"),
        ({"a.png": encoded()}, BundleNotUnderstood, "'a.png' is in no folder"),
        ({"cat/a.png": encoded()}, BundleNotUnderstood, "'cat/a.png' is not a number, and there is no classes.json"),
        ({"cat/a.png": encoded(), "classes.json": b'["a", "b", "c"]'}, BundleNotUnderstood, "does not name it"),
        ({"x/0/a.png": encoded(), "y/0/a.png": encoded()}, BundleNotUnderstood, "side by side, not in 'x, y'"),
        ({"0/a.png": encoded(), "classes.json": b"{"}, BundleNotUnderstood, "not JSON"),
        ({"0/a.png": encoded(), "classes.json": b'{"a": 1}'}, BundleNotUnderstood, "list of the class names"),
        ({"0/a.png": encoded(), "classes.json": b'["a", "a", "b"]'}, BundleNotUnderstood, "each class once"),
        ({"0/a.png": encoded(), "classes.json": b"[" * 100_000}, BundleNotUnderstood, "not JSON"),
        ({"0/a.png": encoded(), "classes.json": b'["a"]'}, LabelOutOfRange, "names 1 classes, the network has 3"),
        ({"3/a.png": encoded()}, LabelOutOfRange, "label 3, the network has 3 classes"),
        ({"9" * 500 + "/a.png": encoded()}, BundleNotUnderstood, "not a number"),
        ({"²/a.png": encoded()}, BundleNotUnderstood, "not a number"),
        ({"-1/a.png": encoded()}, BundleNotUnderstood, "not a number"),
    ],
)
def test_layouts_that_are_refused(path: Path, members: dict[str, bytes], error: type[StageError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read(zipped(path, members))
    assert caught.value.hint
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, BundleNotUnderstood, "no labels"),
        ({"images": torch.zeros(2, 3, 8, 8), "labels": torch.zeros(2, dtype=torch.int64)}, BundleNotUnderstood, "F32"),
        (
            {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "labels": torch.zeros(2, dtype=torch.int64)},
            BundleNotUnderstood,
            "RGB: 3 channels",
        ),
        (
            {"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "labels": torch.zeros(3, dtype=torch.int64)},
            BundleNotUnderstood,
            r"labels.* \[3\]",
        ),
        (
            {"images": torch.zeros(2, 3, 0, 8, dtype=torch.uint8), "labels": torch.zeros(2, dtype=torch.int64)},
            BundleNotUnderstood,
            "images",
        ),
        (
            {"images": torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
            EmptyBundle,
            "no image",
        ),
        (
            {"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "labels": torch.tensor([0, -1])},
            LabelOutOfRange,
            "image 1 has the label -1",
        ),
        (
            {"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "labels": torch.tensor([3, 0])},
            LabelOutOfRange,
            "image 0 has the label 3",
        ),
    ],
)
def test_tensors_that_are_refused(
    path: Path, tensors: dict[str, torch.Tensor], error: type[StageError], message: str
) -> None:
    save_file(tensors, path)
    with pytest.raises(error, match=message):
        read(path)


@pytest.mark.parametrize("content", [b"hello", b"\x1f\x8b" + bytes(40)])
def test_other_files_are_not_understood(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BundleNotUnderstood):
        read(path)


def test_an_empty_file_is_an_empty_bundle(path: Path) -> None:
    path.touch()
    with pytest.raises(EmptyBundle):
        read(path)


# Files that are broken or hostile ----------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def announcing(width: int, height: int) -> bytes:
    """A PNG of that size in its header, and with next to nothing behind it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a PNG, JPEG or WebP file"),
        (b"", "not a PNG"),
        (encoded(kind="BMP"), "not a PNG"),  # Pillow could, but the fewer decoders the better
        (encoded(size=(64, 64))[:-40], "0/bad.png"),
        (announcing(6_000, 6_000), "36000000 pixels|6000×6000 pixels"),
        (announcing(12_000, 12_000), "pixels"),  # Pillow warns
        (announcing(60_000, 60_000), "pixels"),  # Pillow raises
        (encoded("I;16", 300), "8 bits per value"),
    ],
)
def test_undecodable_images_are_named(path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UndecodableImages, match=message) as caught:
        read(zipped(path, {"0/good.png": encoded(), "0/bad.png": content}))
    assert "0/bad.png" in str(caught.value)
    assert "good" not in str(caught.value)


def test_only_the_first_undecodable_images_are_named(path: Path) -> None:
    with pytest.raises(UndecodableImages) as caught:
        read(zipped(path, {f"0/{number:03}.png": b"x" for number in range(100)}))
    assert "0/004.png" in str(caught.value)
    assert "0/005.png" not in str(caught.value)


def test_a_damaged_member_is_named(path: Path) -> None:
    content = zipped(path, {"0/a.png": encoded(), "0/b.png": encoded(color=(9, 9, 9))}).read_bytes()
    path.write_bytes(content.replace(encoded(color=(9, 9, 9)), bytes(len(encoded(color=(9, 9, 9))))))
    with pytest.raises(UndecodableImages, match=r"0/b\.png.*CRC"):
        read(path)


def test_a_zip_bomb_stops_at_the_limit(path: Path) -> None:
    zipped(path, {"0/a.png": bytes(50 * 2**20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(Refused, match="makes 52428800 bytes of") as caught:
        read(path)
    assert caught.value.code == "zip_ratio"
    zipped(path, {"0/a.png": bytes(2**19)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleTooLarge, match="unpacks to more than 1024 bytes"):
        read(path, file_bytes=2**10)


def test_many_small_files_stop_at_the_total(path: Path) -> None:
    zipped(path, {f"0/{number}.png": encoded(size=(64, 64)) for number in range(50)})
    with pytest.raises(Refused, match="unpacks to more"):
        read(path, total_bytes=3 * len(encoded(size=(64, 64))))


def test_too_many_files_or_too_much_memory(path: Path) -> None:
    zipped(path, {f"0/{number}.png": encoded() for number in range(4)})
    with pytest.raises(Refused, match="4 members, at most 3"):
        read(path, files=3)
    with pytest.raises(BundleTooLarge, match="4 images of 8×8 need 768 bytes"):
        read(path, decoded_bytes=767)
    save_file({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "labels": torch.zeros(4, dtype=torch.int64)}, path)
    with pytest.raises(BundleTooLarge, match="768 bytes"):
        read(path, size=(4, 4), decoded_bytes=767)
    with pytest.raises(BundleTooLarge, match="4 images of 1000×1000"):
        read(path, size=(1000, 1000), decoded_bytes=10_000)


def test_a_huge_table_of_contents_is_not_read(path: Path) -> None:
    zipped(path, {"0/a.png": encoded()})
    content = bytearray(path.read_bytes())
    end = content.index(b"PK\x05\x06")
    size = 2**28
    content[end + 12 : end + 16] = struct.pack("<I", size)
    with path.open("wb") as file:
        file.truncate(size)  # a hole: it takes no room on the disk
        file.seek(0, io.SEEK_END)
        file.write(content[end:])
    with path.open("r+b") as file:
        file.write(content[:end])
    with pytest.raises(Refused, match="table of contents"):
        read(path)


@pytest.mark.parametrize(("channels", "depth"), [("RGB", 3), ("L", 1)])
def test_a_child_decodes(path: Path, channels: str, depth: int) -> None:
    """Every kind of file, for the child can import nothing later; and nothing is left behind."""
    members = {f"{number % 3}/{number}": encoded(kind=kind) for number, kind in enumerate(["PNG", "JPEG", "WEBP"])}
    exif = Image.Exif()
    exif[274] = 6
    phone = encoded(kind="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), RED)], exif=exif)
    members |= {"0/palette": encoded("P", 0, transparency=b"\0\1"), "1/phone": phone, "2/é": encoded()}
    zipped(path, members, zipfile.ZIP_DEFLATED)
    before = set(path.parent.iterdir())
    images = read_bundle(path, size=(6, 7), channels=channels, num_classes=3)
    assert torch.equal(images.pixels, read(path, size=(6, 7), channels=channels).pixels)
    assert images.pixels.shape == (6, depth, 6, 7)
    assert set(path.parent.iterdir()) - {path.with_name("out")} == before


def test_what_a_child_refuses_comes_back(path: Path) -> None:
    with pytest.raises(UndecodableImages, match=r"0/a\.png.*not a PNG"):
        read_bundle(zipped(path, {"0/a.png": b"x"}), size=(8, 8), channels="RGB", num_classes=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 400))
def test_damage_never_escapes_as_a_foreign_error(path: Path, position: int, byte: int, cut: int) -> None:
    members = {"0/a.png": encoded(), "1/b.jpg": encoded(kind="JPEG"), "2/c.webp": encoded(kind="WEBP")}
    content = bytearray(zipped(path, members, zipfile.ZIP_DEFLATED).read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(bytes(content[: len(content) - cut] if cut % 3 == 0 else content))
    with contextlib.suppress(StageError):
        read(path)
