"""What the detectors beside Neural Cleanse get to see, and what becomes of their findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from redeem.assessment import Assessment, Missing, Retuning, WeightPath
from redeem.contract import MethodRequest
from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.aim import Aim
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.errors import UnusableImages
from worker.algorithms.training import ignore
from worker.algorithms.triggers import Trigger
from worker.stages import detect as stage
from worker.stages.detect import AFTERWARDS, MODEL_ALONE, ON_TRIGGERED, Scene, detect

BESIDE = [*MODEL_ALONE, *ON_TRIGGERED, *AFTERWARDS]
QUICK: dict[str, dict[str, Any]] = {
    "brain_stimulation": {"steps": 10, "batch_size": 4, "seeds": 4, "levels": 1, "most": 2, "consistency": 0.1},
    "universal_perturbation": {"steps": 2, "batch_size": 4},
    "universal_warp": {"steps": 2, "batch_size": 4},
    "strip": {"overlays": 2, "false_rejection": 0.1},
    "sentinet": {"overlays": 2},
    "activation_clustering": {},
    "retuning": {"epochs": 1},
    "weight_path": {"points": 3},
}
ALL = [MethodRequest(name=name, options=options) for name, options in QUICK.items()]


def corner() -> Aim[Trigger]:
    mask = torch.zeros(1, 16, 16)
    mask[:, :3, :3] = 1
    return Aim(Trigger(mask, torch.ones(3, 16, 16)), 2)


def scene(**changed: Any) -> Scene:
    return Scene(
        **{
            "model": small_classifier(seed=1),
            "suspect": small_classifier(),
            "num_classes": 4,
            "to_search": noisy_stripes(12, seed=1),
            "to_measure": noisy_stripes(8, seed=2),
            "train": noisy_stripes(32, seed=3),
            "triggered": noisy_stripes(16, seed=4),
            "surrogate": corner(),
            "seed": 5,
            **changed,
        }
    )


def test_every_detector_has_its_place_and_its_findings_theirs() -> None:
    assert ["neural_cleanse", *BESIDE] == list(DETECTORS)
    assert set(BESIDE) <= Assessment.model_fields.keys()
    assert QUICK.keys() == set(BESIDE)


def test_the_findings_of_all() -> None:
    given = scene()
    found, missing = detect(given, ALL, ignore)
    assert missing == []
    nothing = Assessment(
        mpa=1, mpa_images=8, mpa_per_class=[], asr=None, asr_images=0, recovery_accuracy=None, surrogate_asr=None,
        neural_cleanse=None,
    )  # fmt: skip
    told = Assessment.model_validate_json(nothing.model_copy(update=found).model_dump_json())
    assert {name: getattr(told, name) for name in BESIDE} == found
    assert told.brain_stimulation is not None
    assert len(told.brain_stimulation.neurons) == 2
    assert told.brain_stimulation.layer == "layer3"
    assert (told.brain_stimulation.images, told.brain_stimulation.images_measured) == (12, 8)
    assert told.universal_perturbation is not None
    assert len(told.universal_perturbation.success) == 4
    assert told.universal_warp is not None
    assert (len(told.universal_warp.success), told.universal_warp.radius) == (4, 1.0)
    for found_on in (told.strip, told.sentinet, told.activation_clustering):
        assert found_on is not None
        assert (found_on.images, found_on.clean_images) == (16, 20)
    assert told.strip is not None
    assert told.strip.false_rejection == 0.1
    assert isinstance(told.retuning, Retuning)
    assert (told.retuning.label, told.retuning.images) == (2, 8)
    assert isinstance(told.weight_path, WeightPath)
    assert (told.weight_path.label, told.weight_path.positions) == (2, [0.0, 0.5, 1.0])


class Seen(UnusableImages):
    """What a detector that only looks at what it is given raises."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brain_stimulation", ["model", "to_search", "to_measure"]),
        ("universal_perturbation", ["model", "to_search", "to_measure"]),
        ("universal_warp", ["model", "to_search", "to_measure"]),
        ("strip", ["model", "unseen", "triggered"]),
        ("sentinet", ["model", "unseen", "triggered"]),
        ("activation_clustering", ["model", "unseen", "triggered"]),
        ("retuning", ["model", "train", "to_measure", "surrogate"]),
        ("weight_path", ["suspect", "model", "to_measure", "surrogate"]),
    ],
)
def test_each_gets_its_images_and_options(name: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def spy(*given: Any, progress: Any, **options: Any) -> None:
        seen.extend([given, options])
        raise Seen("enough")

    monkeypatch.setattr(stage, name, spy)
    given = scene()
    found, missing = detect(given, [MethodRequest(name=name, options=QUICK[name])], ignore)
    assert (found, len(missing)) == ({}, 1)
    for argument, attribute in zip(seen[0], expected, strict=True):
        value = getattr(given, attribute)
        assert argument is value or torch.equal(argument.pixels, value.pixels)
    options = {key: value for key, value in seen[1].items() if key not in ("seed", "num_classes")}
    assert options == QUICK[name]
    assert seen[1].get("seed", 5) == 5


def test_what_clean_images_are_compared_with_triggered_ones() -> None:
    given = scene()
    assert torch.equal(given.unseen.labels, torch.cat([given.to_search.labels, given.to_measure.labels]))


@pytest.mark.parametrize(
    ("changed", "kept_out", "says"),
    [({"triggered": None}, [*ON_TRIGGERED], "none came"), ({"surrogate": None}, [*AFTERWARDS], "there is none")],
)
def test_what_cannot_run_says_why(changed: dict[str, Any], kept_out: list[str], says: str) -> None:
    chosen = [request for request in ALL if request.name in kept_out]
    found, missing = detect(scene(**changed), chosen, ignore)
    assert found == {}
    assert [(each.detector, each.kind) for each in missing] == [(name, "not_run") for name in kept_out]
    assert all(says in each.reason and each.advice for each in missing)


def test_a_refusal_is_told_and_the_others_go_on() -> None:
    of_the_target = Images(noisy_stripes(1).pixels, torch.tensor([corner().target]))
    wanted = [MethodRequest(name=name, options=QUICK[name]) for name in ("retuning", "universal_perturbation")]
    found, missing = detect(scene(to_measure=of_the_target), wanted, ignore)
    assert list(found) == ["universal_perturbation"]
    (refused,) = missing
    assert refused == Missing(
        detector="retuning",
        kind="refused",
        reason="no image is of another class than 2, so no ASR can be measured",
        advice=UnusableImages.hint,
    )


def test_other_errors_are_nobodys_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stage, "strip", broken)
    with pytest.raises(ZeroDivisionError):
        detect(scene(), [MethodRequest(name="strip")], ignore)


def stopping_at(limit: float, heard: list[float]) -> Callable[[float], None]:
    def listen(fraction: float) -> None:
        heard.append(fraction)
        if fraction >= limit:
            raise KeyboardInterrupt

    return listen


def test_progress_is_shared_and_may_end_the_work() -> None:
    heard: list[float] = []
    few = [MethodRequest(name=name, options=QUICK[name]) for name in ("strip", "retuning", "weight_path", "sentinet")]
    detect(scene(surrogate=None), few, heard.append)
    assert heard == sorted(heard)
    assert {0.25, 0.5, 0.75, 1.0} <= set(heard)
    assert any(0 < fraction < 0.25 for fraction in heard)
    assert any(0.75 < fraction < 1 for fraction in heard)
    with pytest.raises(KeyboardInterrupt):
        detect(scene(), few, stopping_at(0.1, heard))
