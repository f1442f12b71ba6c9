"""The flags of the detectors beside Neural Cleanse, by hand-made assessments."""

from __future__ import annotations

from typing import Any

import pytest

from redeem import assessment
from redeem.assessment import Assessment, Missing
from redeem.contract import Policy
from redeem.report import Flag
from tests.worker.stages.test_judge import INFECTED, cleanse, measured
from worker.stages.flags import flags
from worker.stages.judge import judge


def by_code(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Flag]:
    """Of a suspect that nothing else is to be said of."""
    found = flags(INFECTED.model_copy(update=before), measured().model_copy(update=after))
    assert all(flag.message and flag.advice for flag in found)
    assert len({flag.code for flag in found}) == len(found)
    return {flag.code: flag for flag in found}


def stimulated(*flagged: int) -> assessment.BrainStimulation:
    return assessment.BrainStimulation(flagged=[*flagged], neurons=[], layer="l", images=9, images_measured=9)


def shifted(stands_out: int | None, *success: float | None) -> assessment.UniversalPerturbation:
    return assessment.UniversalPerturbation(
        stands_out=stands_out, success=[*success], radius=0.03, images=9, images_measured=9
    )


def warped(stands_out: int | None, *success: float) -> assessment.UniversalWarp:
    return assessment.UniversalWarp(stands_out=stands_out, success=[*success], radius=1.0, images=9, images_measured=9)


def stripped(share: float, images: int = 400) -> assessment.Strip:
    return assessment.Strip(flagged_share=share, threshold=0.1, false_rejection=0.05, images=images, clean_images=60)


def pasted(share: float) -> assessment.SentiNet:
    return assessment.SentiNet(flagged_share=share, false_rejection=0.05, images=400, clean_images=60)


def clustered(*flagged: int, silhouettes: tuple[float | None, ...] = (0.5, None)) -> assessment.ActivationClustering:
    return assessment.ActivationClustering(
        flagged_labels=[*flagged],
        flagged_share=0.5,
        silhouettes=[*silhouettes],
        relative_sizes=[None] * len(silhouettes),
        images=400,
        clean_images=60,
    )


FOUND: dict[str, tuple[Any, Any]] = {
    "brain_stimulation": (stimulated(2), stimulated()),
    "universal_perturbation": (shifted(1, 0.1, 0.9, 0.1), shifted(None, 0.1, 0.1, 0.1)),
    "universal_warp": (warped(1, 0.1, 0.9, 0.1), warped(None, 0.1, 0.1, 0.1)),
    "strip": (stripped(0.5), stripped(0.06)),
    "sentinet": (pasted(0.5), pasted(0.06)),
    "activation_clustering": (clustered(2), clustered()),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_on_the_suspect_is_told(name: str) -> None:
    something, nothing = FOUND[name]
    (flag,) = by_code({name: something}, {name: nothing}).values()
    assert flag.code == f"{name}_found_before"
    assert "On the suspect" in flag.message
    assert by_code({name: nothing}, {name: nothing}) == {}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_on_the_purified_model_is_told(name: str) -> None:
    something, nothing = FOUND[name]
    found = by_code({name: nothing}, {name: something})
    assert f"{name}_found_after" in found
    assert "On the purified model" in found[f"{name}_found_after"].message
    assert found.keys() - {f"{name}_found_after"} <= {"universal_easier"}


@pytest.mark.parametrize(
    ("share", "images", "told"), [(0.5, 400, True), (0.12, 400, False), (0.25, 4, False), (0.1, 10_000, False)]
)
def test_a_share_has_to_be_surely_above_that_of_harmless_images(share: float, images: int, told: bool) -> None:
    assert ("strip_found_before" in by_code({"strip": stripped(share, images)}, {})) == told


@pytest.mark.parametrize(
    "pointed",
    [
        {"neural_cleanse": cleanse(1), "universal_perturbation": shifted(None, 0.7, 0.9, 0.7)},
        {"brain_stimulation": stimulated(1), "universal_perturbation": shifted(None, 0.7, 0.9, 0.7)},
        {"activation_clustering": clustered(1), "universal_perturbation": shifted(None, 0.7, 0.9, 0.7)},
        {"universal_perturbation": shifted(1, 0.1, 0.9, 0.1)},
        {"universal_warp": warped(1, 0.1, 0.9, 0.1), "universal_perturbation": shifted(None, 0.7, 0.9, 0.7)},
    ],
)
def test_a_label_that_something_pointed_to_is_still_the_easiest(pointed: dict[str, Any]) -> None:
    found = by_code(pointed, {"universal_perturbation": shifted(1, 0.1, 0.8, 0.1)})
    assert "universal_flagged_easiest" in found
    assert "universal_perturbation_found_after" not in found


def test_a_purification_that_made_faint_patterns_work_better() -> None:
    before, after = shifted(None, 0.1, 0.1, 0.1), shifted(None, 0.5, 0.5, 0.5)
    assert by_code({"universal_perturbation": before}, {"universal_perturbation": after}).keys() == {"universal_easier"}


@pytest.mark.parametrize(("after", "expected"), [(0.9, {"backdoor_comes_back"}), (0.2, set())])
def test_a_backdoor_that_sleeps(after: float, expected: set[str]) -> None:
    found = assessment.Retuning(
        label=2, before=0.1, after=after, control_before=0, control_after=0, comeback=after - 0.1, images=9
    )
    assert by_code({}, {"retuning": found}).keys() == expected


@pytest.mark.parametrize(("middle", "expected"), [(0.9, {"removal_superficial"}), (0.1, set())])
def test_a_removal_that_is_superficial(middle: float, expected: set[str]) -> None:
    found = assessment.WeightPath(
        label=2,
        positions=[0, 0.9, 1],
        losses=[0.1, 0.1, 0.1],
        accuracies=[1, 1, 1],
        surrogate_asrs=[1, middle, 0.1],
        barrier=0,
        alive_until=0.9,
        changes={},
        images=9,
    )
    assert by_code({}, {"weight_path": found}).keys() == expected


def test_clustering_that_had_too_few_images() -> None:
    few = {"activation_clustering": clustered(silhouettes=(None, None))}
    some = {"activation_clustering": clustered()}
    assert "suspect and the purified" in by_code(few, few)["activation_clustering_few_images"].message
    assert "nothing of the purified" in by_code(some, few)["activation_clustering_few_images"].message
    assert by_code(some, some) == {}


def missing(kind: Any, reason: str = "why") -> dict[str, Any]:
    return {"missing": [Missing(detector="strip", kind=kind, reason=reason, advice="what to do")]}


def test_a_detector_without_findings_is_told_of_once() -> None:
    (flag,) = by_code(missing("not_run"), missing("not_run")).values()
    assert (flag.code, flag.advice) == ("strip_not_run", "what to do")
    assert flag.message == "The detector strip was not run: why."
    (flag,) = by_code(missing("refused"), missing("refused")).values()
    assert (flag.code, flag.message) == (
        "strip_refused",
        "The detector strip refused the suspect and the purified model: why.",
    )
    (flag,) = by_code({}, missing("refused")).values()
    assert "refused the purified model" in flag.message
    told = flags(
        INFECTED.model_copy(update=missing("refused", "one")), measured().model_copy(update=missing("refused", "two"))
    )
    assert [flag.code for flag in told] == ["strip_refused"] * 2


def test_other_detectors_do_not_stand_in_for_neural_cleanse() -> None:
    before = {"neural_cleanse": None, "surrogate_asr": None}
    assert by_code(before, {}).keys() == {"detection_not_run"}
    assert by_code({**before, **missing("not_run")}, {}).keys() == {"detection_not_run", "strip_not_run"}
    assert by_code({**before, "strip": stripped(0.05)}, {}).keys() == {"neural_cleanse_not_run"}


def test_a_verdict_counts_nothing_of_it() -> None:
    found = {name: something for name, (something, _) in FOUND.items()}
    before: Assessment = INFECTED.model_copy(update=found)
    assert judge(before, measured().model_copy(update=found), Policy()) == judge(INFECTED, measured(), Policy())
