from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import claiming


def test_every_job_is_claimed_once_and_the_record_says_how_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    words = ["--jobs", "12", "--connections", "4", "--workers", "2", "--postgres", postgres_url]
    monkeypatch.setattr(sys, "argv", ["claiming.py", *words, "--record", str(tmp_path / "record.json")])
    claiming.main()
    measured = json.loads((tmp_path / "record.json").read_text())["measured"]
    assert set(measured) == {"SQLite", "PostgreSQL"}
    for one in measured.values():
        assert 0 < one["submitting"]["p50"] <= one["submitting"]["p99"]
        assert min(one["claiming"].values()) > 0
