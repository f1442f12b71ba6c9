"""Measure a model: before purification, and again after it, by the same rules and on the same images."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from redeem.assessment import Assessment, MpaDrop, NeuralCleanse
from redeem.contract import MethodRequest
from worker.algorithms.aim import Aim
from worker.algorithms.data import Images
from worker.algorithms.detectors.neural_cleanse import neural_cleanse
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.metrics import (
    accuracy,
    accuracy_drop,
    accuracy_per_class,
    attack_success,
    logits,
    wilson_interval,
)
from worker.algorithms.training import Progress, between, ignore
from worker.stages.detect import AFTERWARDS, Scene, detect
from worker.stages.kept import Kept
from worker.stages.load import CleanParts, Inputs


def assess(
    model: nn.Module,
    inputs: Inputs,
    detectors: list[MethodRequest],
    *,
    seed: int,
    suspects_triggers: ReversedTriggers | None = None,
    suspects_flagged: list[int] | None = None,
    progress: Progress = ignore,
) -> Kept:
    """MPA, ASR, surrogate ASR of `model`, and what the detectors find: facts are an `Assessment`, tensors the triggers
    that Neural Cleanse reversed.

    MPA is of the report part of the clean bundle, which no purifier has seen. The surrogate ASR stamps the triggers
    that were reversed on the **suspect** for its flagged labels: give them when a purified model is measured. Without
    them the model is the suspect. Detectors and the surrogate ASR have images of their own: see `for_triggers`. Some
    detectors have their turn after purification only (`detect.AFTERWARDS`).
    """
    report, scene = inputs.clean.report, _scene(model, inputs, suspects_triggers, suspects_flagged or [], seed)
    predictions = logits(model, report.pixels).argmax(1)
    success = None
    if inputs.triggered is not None:
        triggered = inputs.triggered
        success = attack_success(logits(model, triggered.images.pixels).argmax(1), triggered.images, triggered.targets)
    detectors = [each for each in detectors if model is not inputs.suspect or each.name not in AFTERWARDS]
    beside = [each for each in detectors if each.name != "neural_cleanse"]
    halt = 1 - len(beside) / max(1, len(detectors))  # where in the progress Neural Cleanse ends
    found, tensors = _neural_cleanse(scene, detectors, between(progress, 0, halt))
    if suspects_triggers is None and found is not None:
        suspects_triggers, suspects_flagged = as_triggers(tensors), found.flagged
    surrogate = surrogate_asr(model, scene.to_measure, suspects_triggers, suspects_flagged or [])
    others, missing = detect(scene, beside, between(progress, halt, 1))
    mpa, drop = accuracy(predictions, report.labels), None
    if model is not inputs.suspect:
        drop = accuracy_drop(logits(inputs.suspect, report.pixels).argmax(1), predictions, report.labels)
    assessment = Assessment(
        mpa=mpa,
        mpa_images=len(report),
        mpa_interval=wilson_interval(mpa, len(report)),
        mpa_drop=MpaDrop(**vars(drop)) if drop else None,
        mpa_per_class=accuracy_per_class(predictions, report.labels, scene.num_classes),
        asr=success.asr if success else None,
        asr_images=success.counted if success else 0,
        asr_interval=wilson_interval(success.asr, success.counted) if success else None,
        recovery_accuracy=success.recovery_accuracy if success else None,
        surrogate_asr=surrogate,
        surrogate_asr_images=0 if surrogate is None else len(scene.to_measure),
        neural_cleanse=found,
        missing=missing,
    ).model_copy(update=others)
    return Kept(assessment.model_dump(mode="json"), tensors)


def for_triggers(clean: CleanParts) -> tuple[Images, Images]:
    """The images that triggers are reversed on, and those that reversed triggers are stamped on: disjoint parts.

    A reversed trigger has been fitted to its images, and works better there than on others. So half of the report part,
    class by class every second image, is kept for stamping, and triggers are reversed on the other half and
    the held-out part. Both are the same before and after purification, so that norms can be compared. The training
    part would be a larger one to reverse on, but a purified model has been trained on it: it is surer of these images
    than of any others, and the norms would flatter the purifier. The MPA loses nothing by this: no weight is
    chosen by a reversed trigger. Of fifty clean images, ten or so serve to reverse on and five to stamp.
    """
    report, held_out = clean.report, clean.held_out
    by_class = report.labels.argsort(stable=True)
    kept, shared = by_class[::2], by_class[1::2]
    to_reverse = Images(
        torch.cat([held_out.pixels, report.pixels[shared]]), torch.cat([held_out.labels, report.labels[shared]])
    )
    return to_reverse, report[kept]


def surrogate_asr(
    model: nn.Module, images: Images, triggers: ReversedTriggers | None, flagged: list[int]
) -> float | None:
    """The ASR that can be measured when nobody knows the trigger: that of the reversed triggers of the flagged labels,
    the highest of them. None where no label was flagged."""
    if triggers is None:
        return None
    successes = []
    for label in flagged:
        stamped = Images(triggers[label].stamp(images.pixels), images.labels)
        target = torch.full_like(images.labels, label)
        success = attack_success(logits(model, stamped.pixels).argmax(1), stamped, target)
        if success is not None:
            successes.append(success.asr)
    return max(successes, default=None)


def as_triggers(tensors: dict[str, torch.Tensor]) -> ReversedTriggers | None:
    """The reversed triggers among the tensors of an assessment."""
    return ReversedTriggers(**tensors) if tensors else None


def _scene(model: nn.Module, inputs: Inputs, triggers: ReversedTriggers | None, flagged: list[int], seed: int) -> Scene:
    """`triggers` were reversed on the suspect, for its `flagged` labels too: smallest norm first."""
    to_reverse, to_stamp = for_triggers(inputs.clean)
    return Scene(
        model=model,
        suspect=inputs.suspect,
        num_classes=inputs.loaded.num_classes,
        to_search=to_reverse,
        to_measure=to_stamp,
        train=inputs.clean.train,
        triggered=inputs.triggered.images if inputs.triggered else None,
        surrogate=Aim(triggers[flagged[0]], flagged[0]) if triggers is not None and flagged else None,
        seed=seed,
    )


def _neural_cleanse(
    scene: Scene, detectors: list[MethodRequest], progress: Progress
) -> tuple[NeuralCleanse | None, dict[str, torch.Tensor]]:
    wanted = next((detector for detector in detectors if detector.name == "neural_cleanse"), None)
    if wanted is None:
        return None, {}
    images = scene.to_search
    result = neural_cleanse(
        scene.model, images, num_classes=scene.num_classes, seed=scene.seed, progress=progress, **wanted.options
    )
    triggers = result.triggers
    found = NeuralCleanse(
        **dataclasses.asdict(result.anomaly),
        norms=result.norms.tolist(),
        reached=triggers.reached.tolist(),
        pixels=images.pixels[0, 0].numel(),
        images=len(images),
        seeds=result.seeds,
        spread=result.spread.tolist(),
    )
    return found, {name: getattr(triggers, name) for name in ("masks", "patterns", "norms", "reached")}
