from __future__ import annotations

from typing import Any

from benchmarks.lab.tables import in_words, purifier, suspect, table


def record(name: str, drop: float, asr: list[float], **options: Any) -> dict[str, Any]:
    recipe = {"attack": "robnet", "options": {"triggers": 2}}
    known = {"mpa": 0.8, "asr": [0.9, 1.0]}
    return {
        "recipe": recipe,
        "purifier": name,
        "options": options,
        "clean": 500,
        "suspect": known,
        "mpa_drop": drop,
        "asr": asr,
    }


def test_cells_are_means_over_seeds_of_the_worst_trigger() -> None:
    records = [
        record("sage", 0.01, [0.1, 0.2]),
        record("sage", 0.03, [0.4, 0.3]),
        record("sage", 0.0, [0.5, 0.5], beta=0.0),
        {**record("anp", 0, []), "refused": "unfit_network"},
    ]
    assert table(records, suspect, purifier) == [
        "| | before | sage | sage (beta 0.0) | anp |",
        "| --- | --- | --- | --- | --- |",
        "| robnet (triggers 2), 500 | 80.0 / 100.0 | 2.0 ± 1.4 / 30.0 ± 14.1 | 0.0 / 50.0 | `unfit_network` |",
    ]


def test_a_seed_that_was_refused_hides_no_other() -> None:
    refused = {key: value for key, value in record("anp", 0, []).items() if key not in ("mpa_drop", "asr")}
    records = [{**refused, "refused": "diverged"}, record("anp", 0.02, [0.3])]
    assert in_words(records) == "2.0 / 30.0 / `diverged`"
    assert in_words([record("anp", 0.02, [])]) == "2.0"
