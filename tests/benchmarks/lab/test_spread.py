"""Cells on Celery workers, with a real broker and a real worker process."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.lab.cells import Cell
from benchmarks.lab.profiles import RESERVED
from benchmarks.lab.spread import spread
from benchmarks.lab.suspects import Recipe
from redeem.local.network import free_port
from redeem.local.valkey import find_valkey
from tests.benchmarks.lab.conftest import TINY

SMALLEST = dataclasses.replace(TINY, images=64, epochs=1, test_images=16)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    binary, port = find_valkey(), free_port()
    assert binary is not None
    command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Noise in the format of CIFAR-10's npz files."""
    generator, files = np.random.default_rng(0), []
    for _ in range(RESERVED + SMALLEST.images):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    arrays = {
        "jpeg": np.concatenate(files),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": (np.arange(len(files)) % 10).astype(np.uint8),
        "classes": np.array(list("abcdefghij")),
    }
    for part in ("train", "test"):
        np.savez(tmp_path / f"cifar10-{part}.npz", **arrays)
    return tmp_path


def test_a_worker_measures_what_is_sent(broker: str, data: Path, tmp_path: Path) -> None:
    cells = [Cell(Recipe("none", 0, SMALLEST), "fine_tuning", 40, seed) for seed in (0, 1)]
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.lab.spread", "--broker", broker]
    command += ["--result-backend", broker, "worker", "--pool", "solo", "--loglevel", "warning"]
    environment = {**os.environ, "REDEEM_LAB_DATA": str(data), "REDEEM_LAB_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, env={**environment, "OMP_NUM_THREADS": "1"}) as worker:
        try:
            records = {cell.seed: record for cell, record in spread(cells, broker, "a test")}
        finally:
            worker.terminate()
    assert records.keys() == {0, 1}
    assert [Cell.of_json({key: records[0][key] for key in cells[0].as_json()})] == cells[:1]
    assert (records[1]["command"], records[1]["asr"]) == ("a test", [])
