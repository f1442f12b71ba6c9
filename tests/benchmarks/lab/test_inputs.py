from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.lab import __main__ as lab


@pytest.mark.usefixtures("tiny_lab")
def test_a_suspect_has_a_record_with_its_twin_beside_it(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inputs", "--profile", "tiny", "--data", ".", "--cache", str(cache), "--records", str(tmp_path)]
    lab.main([*words, "--attacks", "badnets"])
    (file,) = tmp_path.rglob("*.json")
    assert file.relative_to(tmp_path).as_posix().startswith("tiny/cifar10/badnets-februus-0-")
    record = json.loads(file.read_text())
    assert (record["recipe"]["attack"], record["inputs"], record["options"]) == ("badnets", "februus", {"level": 0.7})
    assert record["asr"][0] < record["suspect"]["asr"][0] - 0.3
    assert record["mpa_drop"] == pytest.approx(record["suspect"]["mpa"] - record["mpa"], abs=2e-4)
    benign = record["benign"]
    assert benign["mpa_drop"] == pytest.approx(record["suspect"]["mpa_of_benign"] - benign["mpa"], abs=2e-4)
    assert {"command", "machine", "environment", "seconds"} <= record.keys()

    written = file.stat().st_mtime_ns
    lab.main([*words, "--attacks", "badnets"])
    assert "1 of 1 suspects have their record" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == written
    lab.main([*words, "--attacks", "badnets", "--level", "0.9"])
    assert len(list(tmp_path.rglob("*.json"))) == 2

    capsys.readouterr()
    lab.main(["inputs-table", *words[1:], "--attacks", "badnets", "robnet"])
    _, _, row = capsys.readouterr().out.splitlines()  # robnet has no record
    assert row.startswith("| badnets | ")
    assert row.endswith(f"| {100 * benign['mpa_drop']:.1f} / {100 * benign['asr'][0]:.1f} |")
