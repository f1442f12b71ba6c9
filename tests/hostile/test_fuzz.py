"""Damaged files: each is read, or refused by a code. A few hundred always, more than 10,000 with `-m slow`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.hostile.mutations import CUT, EDITS, SOUND, mutated
from worker.stages import sandbox
from worker.stages.confinement import Limits
from worker.stages.errors import StageError
from worker.stages.image_folder import unpack_images
from worker.stages.kind import kind_of
from worker.stages.weights import read_tensors

Edits = list[tuple[str, int, bool, bytes]]


def attempt(kind: str, content: bytes, folder: Path) -> str:
    """What the worker, and of a zip the child, makes of it: a code, or "". Any other error escapes."""
    path = folder / "file"
    path.write_bytes(content)
    try:
        if kind == "zip":
            unpack_images(path, folder, size=[8, 8], channels="RGB", num_classes=3, limits={})
        elif kind_of(path) == "safetensors":
            read_tensors(path)
    except StageError as error:
        return error.code
    return ""


def fuzz(kind: str, examples: int, folder: Path, begun_with: int = 0) -> None:
    @seed(begun_with)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(edits=EDITS, cut=CUT)
    def run(edits: Edits, cut: int) -> None:
        attempt(kind, mutated(SOUND[kind], edits, cut), folder)

    assert attempt(kind, SOUND[kind], folder) == ""
    run()


@pytest.mark.parametrize("kind", SOUND)
def test_a_hundred_damaged_files(tmp_path: Path, kind: str) -> None:
    fuzz(kind, 100, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(1, 18))
@pytest.mark.parametrize("kind", SOUND)
def test_ten_thousand_damaged_files(tmp_path: Path, kind: str, batch: int) -> None:
    fuzz(kind, 200, tmp_path, batch)


def damaged_checkpoints(count: int, seed: int) -> bytes:
    """Damaged where their pickle and their storages are, so that most come as far as torch."""
    generator, pieces = random.Random(seed), []  # noqa: S311
    for _ in range(count):
        content = bytearray(SOUND["checkpoint"])
        for _ in range(generator.randint(0, 3)):
            content[generator.randrange(80, 900)] = generator.randrange(256)
        pieces.append(len(content).to_bytes(8, "little") + bytes(content))
    return b"".join(pieces)


@pytest.mark.parametrize("count", [60, pytest.param(3_000, marks=pytest.mark.slow)])
def test_damaged_checkpoints_in_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """It survives them all, and none makes it try what no reader needs: that would be `reading_forbidden`."""
    monkeypatch.setattr(sandbox, "CHILD", "tests.hostile.many")
    (tmp_path / "many").write_bytes(damaged_checkpoints(count, seed=0))
    limits = Limits(memory=2**30, cpu=500, wall=600, file=2**26)
    codes = sandbox.run("convert_many", tmp_path / "many", tmp_path / "out", {}, limits)
    assert sum(codes.values()) == count
    assert codes[""] > 0
    assert len(codes) > 3
