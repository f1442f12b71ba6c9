from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import neural_cleanse
from benchmarks.neural_cleanse import Found

torch.set_num_threads(1)


def test_too_few_steps_find_nothing_and_the_ratio_then_does_not_count(tmp_path: Path) -> None:
    record_at = tmp_path / "record.json"
    words = [
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--plain-batch-size",
        "2",
        "--rounds",
        "1",
        "--record",
        str(record_at),
    ]
    assert neural_cleanse.main([*words, "--record", str(record_at)]) == 1
    record = json.loads(record_at.read_text())
    assert record["same_verdict"] is False
    assert [len(row["norms"]) for row in record["rows"]] == [10, 10, 10]
    assert all(row["seconds"]["median"] > 0 for row in record["rows"])


def test_the_same_verdict_is_the_same_label_first_with_a_trigger_of_about_the_same_size() -> None:
    plain = Found([6.0, 50.0], [0, 1])
    assert neural_cleanse.same_verdict(Found([5.0, 60.0], [0]), plain)
    assert not neural_cleanse.same_verdict(Found([5.0, 60.0], []), plain)
    assert not neural_cleanse.same_verdict(Found([5.0, 60.0], [0]), Found([6.0, 50.0], [1, 0]))
    assert not neural_cleanse.same_verdict(Found([5.0, 60.0], [0]), Found([13.0, 50.0], [0]))
