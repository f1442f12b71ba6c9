from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import followers


def test_every_follower_hears_the_end_and_the_record_says_what_it_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"streams": 3, "waiting": 2, "seconds": 0.5}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    monkeypatch.setattr(sys, "argv", ["followers.py", *words, "--record", str(tmp_path / "record.json")])
    followers.main()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["sizes"] == sizes
    for name in ("alone", "followed"):
        one = record["measured"][name]
        assert 0 < one["p50"] <= one["p99"]
    assert 0 <= record["measured"]["growth_mib"] < 64
