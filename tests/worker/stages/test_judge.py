"""The verdict, by hand-made assessments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from redeem.contract import Assessment, NeuralCleanse, Outcome, Policy
from worker.algorithms.metrics import accuracy
from worker.stages.judge import judge


def measured(**figures: Any) -> Assessment:
    figures = {"mpa": 0.9, "asr": 0.05, "surrogate_asr": None, "neural_cleanse": None, "mpa_images": 500, **figures}
    return Assessment(mpa_per_class=[0.9, 0.9], asr_images=300, recovery_accuracy=None, **figures)


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
    before = measured(mpa=share(images * 9 // 10))
    assert judge(before, at_limit, Policy(max_mpa_drop=0.3)).outcome is Outcome.passed
    beyond = measured(asr=share(images // 5 + 1))
    assert judge(before, beyond, Policy()).outcome is Outcome.failed
