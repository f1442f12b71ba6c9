from __future__ import annotations

from pathlib import Path

from service.openapi import document

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_committed_interface_is_the_one_served() -> None:
    assert COMMITTED.read_text() == document(), "docs/openapi.json is of other routes than these: run `make openapi`"
