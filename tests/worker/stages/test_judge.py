"""The verdict, by hand-made assessments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from redeem.assessment import Assessment, MpaDrop, NeuralCleanse
from redeem.contract import Outcome, Policy
from worker.algorithms.metrics import accuracy, drop_interval
from worker.stages.judge import judge


def measured(**figures: Any) -> Assessment:
    figures = {"mpa": 0.9, "asr": 0.05, "surrogate_asr": None, "neural_cleanse": None, "mpa_images": 500, **figures}
    return Assessment(mpa_per_class=[0.9, 0.9], asr_images=300, recovery_accuracy=None, **figures)


def compared(lost: int, gained: int, images: int) -> Assessment:
    """A purified model whose answers were compared with the suspect's image by image."""
    drop, interval = (lost - gained) / images, drop_interval(lost, gained, images)
    fall = MpaDrop(drop=drop, interval=interval, lost=lost, gained=gained)
    return measured(mpa=0.9 - drop, mpa_images=images, mpa_drop=fall)


def cleanse(*flagged: int) -> NeuralCleanse:
    return NeuralCleanse(index=1.0, p_value=0.5, flagged=list(flagged), norms=[9.0] * 4, reached=[True] * 4)


INFECTED = measured(asr=0.99, surrogate_asr=1.0, neural_cleanse=cleanse(2))


@pytest.mark.parametrize(
    ("after", "outcome", "reason"),
    [
        ({}, Outcome.passed, "ASR is 0.050"),
        ({"asr": None, "surrogate_asr": 0.1}, Outcome.passed, "surrogate ASR is 0.100"),
        ({"asr": 0.1, "surrogate_asr": 0.1, "neural_cleanse": cleanse()}, Outcome.passed, "flags no more"),
        ({"mpa": 0.95}, Outcome.passed, "MPA fell by 0.000"),
        ({"mpa": 0.86}, Outcome.failed, "MPA fell by 0.040"),
        ({"asr": 0.21}, Outcome.failed, "ASR is 0.210"),
        ({"surrogate_asr": 0.21}, Outcome.failed, "surrogate ASR is 0.210"),
        ({"asr": None, "surrogate_asr": 0.21}, Outcome.failed, "surrogate ASR is 0.210"),
        ({"neural_cleanse": cleanse(3, 1)}, Outcome.failed, "still flags label 3, 1; 0 may be"),
        ({"asr": None}, Outcome.inconclusive, "could be measured"),
        ({"asr": None, "neural_cleanse": cleanse()}, Outcome.inconclusive, "could be measured"),
        ({"asr": None, "mpa": 0.8}, Outcome.failed, "MPA fell by 0.100"),
        ({"asr": None, "neural_cleanse": cleanse(1)}, Outcome.failed, "still flags label 1"),
    ],
)
def test_the_table_of_outcomes(after: dict[str, Any], outcome: Outcome, reason: str) -> None:
    verdict = judge(INFECTED, measured(**after), Policy())
    assert verdict.outcome is outcome
    assert any(reason in line for line in verdict.reasons)


def test_every_broken_limit_is_told() -> None:
    after = measured(mpa=0.5, asr=0.5, surrogate_asr=0.5, neural_cleanse=cleanse(0))
    verdict = judge(INFECTED, after, Policy())
    assert len(verdict.reasons) == 4


def test_the_jobs_own_limits_decide() -> None:
    policy = Policy(max_mpa_drop=0.5, max_asr=0.6, max_surrogate_asr=0.6, max_flagged_labels=1)
    after = measured(mpa=0.5, asr=0.5, surrogate_asr=0.5, neural_cleanse=cleanse(0))
    verdict = judge(INFECTED, after, policy)
    assert (verdict.outcome, verdict.policy) == (Outcome.passed, policy)
    strict = policy.model_copy(update={"max_flagged_labels": 0})
    assert judge(INFECTED, after, strict).outcome is Outcome.failed


@pytest.mark.parametrize("images", [10, 100, 1000])
def test_a_figure_at_its_limit_keeps_it(images: int) -> None:
    def share(right: int) -> float:
        return accuracy(torch.arange(images), torch.where(torch.arange(images) < right, torch.arange(images), -1))

    at_limit = measured(asr=share(images // 5), surrogate_asr=share(images // 5), mpa=share(images * 6 // 10))
    before = measured(mpa=share(images * 9 // 10), asr=0.99)
    assert judge(before, at_limit, Policy(max_mpa_drop=0.3)).outcome is Outcome.passed
    beyond = measured(asr=share(images // 5 + 1))
    assert judge(before, beyond, Policy()).outcome is Outcome.failed


@pytest.mark.parametrize(
    ("lost", "gained", "images", "outcome"),
    [
        (4, 4, 203, Outcome.passed),
        (6, 0, 200, Outcome.passed),  # at the limit, whatever the interval says
        (0, 20, 203, Outcome.passed),
        (13, 6, 203, Outcome.inconclusive),  # the fall of 0.034 that 8,000 images show to be one of 0.012
        (7, 0, 200, Outcome.inconclusive),
        (2, 0, 20, Outcome.inconclusive),
        (24, 4, 203, Outcome.failed),
        (69, 34, 1000, Outcome.inconclusive),
        (80, 20, 1000, Outcome.failed),
        (690, 340, 10_000, Outcome.inconclusive),
        (750, 340, 10_000, Outcome.failed),
        (18, 0, 20, Outcome.failed),
    ],
)
def test_a_fall_of_the_mpa_counts_where_its_images_can_show_it(
    lost: int, gained: int, images: int, outcome: Outcome
) -> None:
    assert judge(INFECTED, compared(lost, gained, images), Policy()).outcome is outcome


def test_the_reason_tells_what_few_images_leave_open() -> None:
    (reason,) = judge(INFECTED, compared(13, 6, 203), Policy()).reasons
    for told in ("MPA fell by 0.034", "95 % interval -0.009 to 0.078", "at most 0.030", "203 images", "more clean"):
        assert told in reason
    (first, *_) = judge(INFECTED, compared(4, 4, 203), Policy()).reasons
    assert first == "MPA fell by 0.000 (95 % interval -0.030 to 0.030)"


def test_a_broken_limit_outweighs_a_doubt() -> None:
    after = compared(13, 6, 203).model_copy(update={"asr": 0.5})
    verdict = judge(INFECTED, after, Policy())
    assert verdict.outcome is Outcome.failed
    assert verdict.reasons == ["ASR is 0.500, at most 0.200 is allowed"]


@pytest.mark.parametrize(
    ("suspect", "after", "outcome", "reason"),
    [
        ({"asr": 0.5}, {"asr": 0.01}, Outcome.passed, "ASR is 0.010"),
        ({"asr": 0.499}, {"asr": 0.01}, Outcome.inconclusive, "on the suspect the ASR is only 0.499"),
        ({"asr": 0.02}, {"asr": 0.01, "neural_cleanse": cleanse()}, Outcome.inconclusive, "their target"),
        ({"asr": None}, {"asr": 0.01}, Outcome.inconclusive, "could be measured"),
        ({"asr": 0.02, "surrogate_asr": 1.0}, {"surrogate_asr": 0.1}, Outcome.passed, "surrogate ASR is 0.100"),
        ({"asr": 0.02, "surrogate_asr": 1.0}, {"surrogate_asr": 0.1}, Outcome.passed, "0.050, of a trigger"),
        ({"asr": 0.02, "surrogate_asr": 1.0}, {"surrogate_asr": 0.9}, Outcome.failed, "surrogate ASR is 0.900"),
        ({"asr": 0.02, "surrogate_asr": 0.3}, {"surrogate_asr": 0.1}, Outcome.inconclusive, "surrogate ASR is only"),
        ({"asr": None, "surrogate_asr": 0.3}, {"asr": None, "surrogate_asr": 0.1}, Outcome.inconclusive, "only 0.300"),
        ({"asr": 0.99, "surrogate_asr": 0.3}, {"surrogate_asr": 0.1}, Outcome.passed, "ASR is 0.050"),
        ({"asr": 0.4}, {"asr": 0.3}, Outcome.failed, "ASR is 0.300"),
    ],
)
def test_a_trigger_that_never_worked_shows_nothing(
    suspect: dict[str, Any], after: dict[str, Any], outcome: Outcome, reason: str
) -> None:
    verdict = judge(measured(**suspect), measured(**after), Policy())
    assert verdict.outcome is outcome
    assert any(reason in line for line in verdict.reasons)


def test_all_doubts_are_told() -> None:
    after = compared(13, 6, 203).model_copy(update={"asr": None})
    assert len(judge(measured(asr=None), after, Policy()).reasons) == 2
