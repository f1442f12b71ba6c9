"""Zip files of strangers: every trick has its own code, nothing is unpacked, and no name leads anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hostile.costs import within
from tests.hostile.zip_files import TRICKS, A, B, Part, deflated, zip_file
from worker.stages.errors import StageError
from worker.stages.image_folder import unpack_images
from worker.stages.refusals import REFUSALS
from worker.stages.zip_directory import Rules, check_zip


def unpack(path: Path, **limits: Any) -> None:
    out = path.with_name("out")
    out.mkdir(exist_ok=True)
    unpack_images(path, out, size=[8, 8], channels="RGB", num_classes=3, limits=limits)


@pytest.mark.parametrize("trick", TRICKS)
def test_every_trick_is_refused_by_its_code(tmp_path: Path, trick: str) -> None:
    content, code = TRICKS[trick]
    path = tmp_path / "bundle"
    path.write_bytes(content)
    with within(memory=8 * 2**20), pytest.raises(StageError) as caught:
        unpack(path)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.hint
    assert len(str(caught.value)) < 1_000
    assert str(caught.value).isprintable()


def test_every_rule_has_a_trick() -> None:
    rules = {code for code in REFUSALS if code.startswith("zip_")}
    numbers = {"zip_contents_too_long", "zip_too_large"}  # below
    assert rules - {code for _, code in TRICKS.values()} == numbers


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        (Rules(members=1), "zip_too_many_members"),
        (Rules(contents=100), "zip_contents_too_long"),
        (Rules(unpacked=1), "zip_too_large"),
    ],
)
def test_numbers_have_limits(tmp_path: Path, rules: Rules, code: str) -> None:
    (tmp_path / "zip").write_bytes(zip_file(A, B))
    with pytest.raises(StageError) as caught:
        check_zip(tmp_path / "zip", rules)
    assert caught.value.code == code


def test_what_breaks_no_rule_passes(tmp_path: Path) -> None:
    """The builder of the tricks builds sound files too, so that each trick is refused for its own sake."""
    path = tmp_path / "zip"
    path.write_bytes(zip_file(A, Part(b"0/", b""), Part("1/é".encode(), deflated(b"y" * 99), 8, flags=0x800)))
    found = [(member.name, member.size) for member in check_zip(path, Rules())]
    assert found == [("0/a.png", 1), ("0/", 0), ("1/é", 99)]
    path.write_bytes(zip_file(A, B, end={"here": 0xFFFF, "count": 0xFFFF, "length": 0xFFFFFFFF}, counted=0))
    assert len(check_zip(path, Rules())) == 2
