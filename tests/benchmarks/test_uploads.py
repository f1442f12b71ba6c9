from __future__ import annotations

import json
from pathlib import Path

from benchmarks import uploads


def test_it_measures_memory_cuts_and_rates_and_tells_them(tmp_path: Path) -> None:
    record_at = tmp_path / "record.json"
    words = ["--mib", "12", "--cuts", "3", "--rounds", "1", "--folder", str(tmp_path), "--record", str(record_at)]
    assert uploads.main(words) == 0
    record = json.loads(record_at.read_text())
    assert record["memory"]["before_mib"] > 20
    assert record["memory"]["growth_mib"] < 64
    assert (record["resumed"]["cuts"], record["resumed"]["same_hash"]) == (3, True)
    assert record["resumed"]["sent_mib"] >= 12
    rates = record["rates"]["mib_per_second"]
    assert all(rate > 0 for side in ("redeem", "bare", "bare_synced") for rate in rates[side])
    assert record["rates"]["ratio_to_bare"]["median"] == round(rates["redeem"][0] / rates["bare"][0], 2)
    assert list(tmp_path.iterdir()) == [record_at]
