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
    record = json.loads((small_example / "record.json").read_text())
    assert set(record["seconds"]) == set(record["waiting_mib"]) == {"ready", "unready"}
    for way, seconds in record["seconds"].items():
        assert 0 < seconds["to_claim"]["median"] < seconds["to_end"]["median"]
        assert min(record["waiting_mib"][way]["own"].values()) > 0
