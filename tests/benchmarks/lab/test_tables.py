from __future__ import annotations

from typing import Any

from benchmarks.lab.tables import in_words, table


def record(name: str, drop: float, asr: list[float], **options: Any) -> dict[str, Any]:
    recipe = {"attack": "robnet", "options": {"triggers": 2}}
    known = {"mpa": 0.8, "asr": [0.9, 1.0], "mpa_of_benign": 0.82, "asr_of_benign": [0.04, 0.03]}
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
    assert table(records) == [
        "|  | robnet (triggers 2), 500 |",
        "| --- | --- |",
        "| before | 80.0 / 100.0 |",
        "| benign twin | 82.0 / 4.0 |",
        "| sage | 2.0 ± 1.4 / 30.0 ± 14.1 |",
        "| sage (beta 0.0) | 0.0 / 50.0 |",
        "| anp | `unfit_network` |",
    ]


def test_a_table_is_turned_where_it_would_be_wider_than_long() -> None:
    several = [{**record("sage", 0.01, [0.5]), "clean": clean} for clean in (50, 100, 250, 500)]
    assert table(several) == [
        "|  | before | benign twin | sage |",
        "| --- | --- | --- | --- |",
        *(f"| robnet (triggers 2), {n} | 80.0 / 100.0 | 82.0 / 4.0 | 1.0 / 50.0 |" for n in (50, 100, 250, 500)),
    ]


def test_without_a_trigger_there_is_an_accuracy_alone() -> None:
    benign = {"mpa": 0.82, "asr": [], "mpa_of_benign": 0.82, "asr_of_benign": []}
    assert table([{**record("sage", 0.01, []), "suspect": benign}])[2:] == [
        "| before | 82.0 |",
        "| benign twin | 82.0 |",
        "| sage | 1.0 |",
    ]


def test_a_seed_that_was_refused_hides_no_other() -> None:
    refused = {key: value for key, value in record("anp", 0, []).items() if key not in ("mpa_drop", "asr")}
    records = [{**refused, "refused": "diverged"}, record("anp", 0.02, [0.3])]
    assert in_words(records) == "2.0 / 30.0 / `diverged`"
    assert in_words([record("anp", 0.02, [])]) == "2.0"
