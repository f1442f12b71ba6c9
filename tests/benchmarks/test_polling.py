from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import polling


def test_both_sides_answer_and_every_list_has_what_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"connections": 4, "seconds": 0.2, "rounds": 1, "few": 100, "many": 300, "pages": 2}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    monkeypatch.setattr(sys, "argv", ["polling.py", *words, "--record", str(tmp_path / "record.json")])
    polling.main()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["sizes"] == sizes
    assert record["polling"]["bytes"] > 500
    assert (
        0
        < record["polling"]["ratio"]["median"]
        == pytest.approx(record["polling"]["ours"]["median"] / record["polling"]["bare"]["median"], abs=0.02)
    )
    assert set(record["lists"]) == set(polling.LISTS)
    assert all(figure["median"] > 0 for one in record["lists"].values() for figure in one.values())
