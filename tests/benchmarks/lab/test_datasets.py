from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.lab import datasets

GENERATOR = np.random.default_rng(0)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def test_digits_are_read_packed_and_unpacked(tmp_path: Path) -> None:
    pixels, labels = GENERATOR.integers(0, 256, (5, 28, 28), np.uint8), np.arange(5, dtype=np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    data = datasets.read("mnist", tmp_path)
    assert (data.train.pixels[:, 0].numpy() == pixels).all()
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.in_channels == 1


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"PNG and more")
    with pytest.raises(ValueError, match="no IDX file"):
        datasets.read("fashion_mnist", tmp_path)


def test_cifar10_comes_from_jpeg_files_in_one_array(tmp_path: Path) -> None:
    grey = [np.full((32, 32, 3), value, np.uint8) for value in (10, 200)]
    files = []
    for picture in grey:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    for part in ("train", "test"):
        np.savez(
            tmp_path / f"cifar10-{part}.npz",
            jpeg=np.frombuffer(b"".join(files), np.uint8),
            offsets=offsets,
            labels=np.array([3, 7], np.uint8),
            classes=np.array(list("abcdefghij")),
        )
    data = datasets.read("cifar10", tmp_path)
    assert data.train.labels.tolist() == [3, 7]
    assert data.test.pixels.float().mean((1, 2, 3)).tolist() == pytest.approx([10, 200], abs=2)


def test_imagenette_is_brought_to_one_size(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label, name in enumerate(("n01", "n02")):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (300, 260 + label), (50 * label, 0, 0)).save(tmp_path / part / name / "one.png")
    data = datasets.read("imagenette", tmp_path)
    assert data.test.pixels.shape == (2, 3, 224, 224)
    assert data.test.pixels[:, 0, 0, 0].tolist() == [0, 50]
