from __future__ import annotations

from typing import Any

import pytest

from benchmarks.lab.contest import attempted, standings


def record(attack: str, name: str, drop: float, *asr: float, **options: Any) -> dict[str, Any]:
    return {
        "recipe": {"attack": attack, "options": {}},
        "purifier": name,
        "options": options,
        "clean": 500,
        "suspect": {"mpa": 0.8, "asr": [1.0]},
        "mpa_drop": drop,
        "asr": list(asr),
        "notes": ["auto_attempt: sage: lost 0.001", "auto_chosen: clp: lost 0.002"] if name == "auto" else [],
    }


def test_the_lowest_attack_success_within_the_drop_wins() -> None:
    records = [
        record("badnets", "sage", 0.01, 0.3),
        record("badnets", "sage", 0.00, 0.0, beta=0.0),  # the control is no entry
        record("badnets", "nad", 0.02, 0.4),
        record("badnets", "anp", 0.04, 0.1),  # lost too much
        record("badnets", "fst", 0.00, 0.0),  # is none of the paper's
        record("badnets", "auto", 0.035, 0.125),
        record("wanet", "sage", 0.01, 0.3),
        record("wanet", "nad", 0.03, 0.2, 0.29),  # the worst trigger counts
        record("wanet", "auto", 0.0, 0.1),
        record("ingrain", "sage", 0.031, 0.0),
    ]
    head, _, badnets, wanet, ingrain, *_, told = standings(records)
    assert head.count("|") == 8
    assert (
        badnets
        == "| badnets, 500 | 1.0 / 30.0 | nad 2.0 / 40.0 | sage | 3.5 / 12.5 | MPA by 0.5, ASR by 2.5 | sage, **clp** |"
    )
    assert wanet == "| wanet, 500 | 1.0 / 30.0 | nad 3.0 / 29.0 | nad | 0.0 / 10.0 | – | sage, **clp** |"
    assert ingrain == "| ingrain, 500 | 3.1 / 0.0 | – | – | – | – | – |"
    assert told == "SAGE has the lowest ASR on 1 of 3."


@pytest.mark.parametrize(("asr", "winner"), [(0.2, "nad"), (0.6, "sage")])
def test_a_place_is_of_the_mean_over_seeds(asr: float, winner: str) -> None:
    seeds = [record("badnets", "sage", 0.0, 0.3), record("badnets", "sage", 0.0, 0.5)]
    assert f"| {winner} |" in standings([*seeds, record("badnets", "nad", 0.0, asr)])[2]
    refused = {**record("badnets", "nad", 0.0), "refused": "diverged"}
    assert "| sage |" in standings([*seeds, refused])[2]


def test_what_was_tried_is_told_by_the_notes() -> None:
    assert attempted(["auto_chosen"]) == "**sage**"  # older records have the notes' codes alone
    assert attempted(["unlearnt", "auto_attempt", "auto_attempt", "auto_chosen", "auto_attempt"]) == (
        "sage, clp, **unlearning**, i_bau"
    )
    notes = ["auto_attempt: sage: lost 0.01", "auto_chosen: unlearning: lost 0.02", "auto_refused: clp refused: none"]
    assert attempted(notes) == "sage, **unlearning**"
