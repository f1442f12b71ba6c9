from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import job_start


def test_jobs_of_both_ways_end_and_the_record_says_how_soon(
    small_example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_start, "EXAMPLE", small_example)
    words = ["--rounds", "1", "--jobs", "1", "--pause", "1", "--record", str(small_example / "record.json")]
    assert job_start.main(words) == 0
    seconds = json.loads((small_example / "record.json").read_text())["seconds"]
    assert set(seconds) == {"ready", "unready"}
    for one in seconds.values():
        assert 0 < one["to_claim"]["median"] < one["to_end"]["median"]
