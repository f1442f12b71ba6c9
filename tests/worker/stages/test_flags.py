"""The flags, by hand-made assessments."""

from __future__ import annotations

from typing import Any

import pytest

from redeem.assessment import Assessment, NeuralCleanse
from tests.worker.stages.test_judge import INFECTED, cleanse, measured
from worker.stages.flags import flags


def codes(before: Assessment, after: Assessment) -> set[str]:
    found = flags(before, after)
    assert all(flag.message and flag.advice for flag in found)
    return {flag.code for flag in found}


def test_flags() -> None:
    assert codes(INFECTED, measured()) == set()
    assert codes(measured(asr=0.99), measured()) == {"detection_not_run"}
    assert codes(measured(asr=None, neural_cleanse=cleanse()), measured()) == {"asr_not_measured", "nc_inconclusive"}
    assert codes(measured(asr=0.3, neural_cleanse=cleanse(1)), measured()) == {"trigger_does_not_work"}
    assert codes(INFECTED, measured(mpa_images=99)) == {"mpa_imprecise"}
    assert codes(INFECTED, measured().model_copy(update={"asr_images": 99})) == {"asr_imprecise"}
    assert codes(INFECTED, measured().model_copy(update={"mpa_per_class": [0.5, None]})) == {"classes_without_images"}


SUSPECT = {"norms": [8.0, 90.0, 80.0, 100.0], "flagged": [0], "index": 5.5, "median": 85.0, "mad": 10.0}
REPAIRED = {"norms": [70.0, 90.0, 80.0, 100.0], "index": 1.0, "median": 85.0, "mad": 10.0}


def searched(**facts: Any) -> Assessment:
    facts = {"p_value": 0.01, "flagged": [], "reached": [True] * 4, **facts}
    return measured(asr=0.9, neural_cleanse=NeuralCleanse(**facts))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({}, set()),
        ({"norms": [16.0, 90.0, 80.0, 100.0], "mad": 30.0}, set()),  # twice as large
        ({"norms": [15.9, 90.0, 80.0, 100.0], "flagged": [0]}, {"nc_trigger_still_small"}),
        ({"norms": [9.0, 90.0, 80.0, 100.0]}, {"nc_trigger_still_small"}),
        ({"norms": [9.0, 30.0, 80.0, 190.0], "mad": 30.0}, {"nc_trigger_still_small", "nc_index_fell_by_scatter"}),
        ({"norms": [9.0, 30.0, 80.0, 190.0], "mad": 30.0, "flagged": [0]}, {"nc_trigger_still_small"}),
        ({"norms": [70.0, 21.0, 21.0, 100.0]}, {"nc_fragile_labels"}),
        ({"norms": [70.0, 21.0, 21.25, 100.0]}, set()),  # one label, and one at the limit
        ({"mad": 0.0, "statistic": "ratio", "p_value": None}, {"mad_zero"}),
        ({"median_suspect": True}, {"nc_median_suspect"}),
    ],
)
def test_flags_of_a_neural_cleanse_that_finds_nothing_any_more(after: dict[str, Any], expected: set[str]) -> None:
    assert codes(searched(**SUSPECT), searched(**{**REPAIRED, **after})) == expected


def test_flags_of_a_search_on_the_suspect() -> None:
    flat = searched(**{**SUSPECT, "mad": 0.0, "statistic": "ratio"})
    assert codes(flat, measured()) == {"mad_zero"}
    two = {"norms": [8.0, 90.0], "reached": [True] * 2, "flagged": [0], "index": 11.25, "statistic": "ratio"}
    assert codes(searched(**two, mad=0.0), measured()) == {"nc_few_labels"}
    assert codes(searched(**SUSPECT, median_suspect=True), measured()) == {"nc_median_suspect"}


def test_a_flag_says_which_model_it_is_about() -> None:
    before, after = searched(**SUSPECT, median_suspect=True), searched(**REPAIRED, median_suspect=True)
    (flag,) = flags(before, after)
    assert "the suspect and the purified model" in flag.message
    (flag,) = flags(searched(**SUSPECT), after)
    assert "of the purified model" in flag.message


def test_a_reversed_trigger_that_does_not_work() -> None:
    assert codes(measured(asr=0.9, surrogate_asr=0.49, neural_cleanse=cleanse(1)), measured()) == {
        "reversed_trigger_does_not_work"
    }
    assert codes(measured(asr=0.9, surrogate_asr=0.5, neural_cleanse=cleanse(1)), measured()) == set()
