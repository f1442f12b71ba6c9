"""The flags, by hand-made assessments."""

from __future__ import annotations

from redeem.contract import Assessment
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
    assert codes(INFECTED, measured().model_copy(update={"mpa_per_class": [0.5, None]})) == {"classes_without_images"}
