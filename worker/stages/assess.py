"""Measure a model: before purification, and again after it, by the same rules and on the same images."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from redeem import contract
from redeem.contract import Assessment, MethodRequest
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.metrics import (
    accuracy,
    accuracy_drop,
    accuracy_per_class,
    attack_success,
    logits,
    wilson_interval,
)
from worker.algorithms.training import Progress, ignore
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
    """MPA, ASR, Neural Cleanse, surrogate ASR of `model`: facts are an `Assessment`, tensors the reversed triggers.

    MPA is of the report part of the clean bundle, which no purifier has seen. The surrogate ASR stamps the triggers
    that were reversed on the **suspect** for its flagged labels: give them when a purified model is measured. Without
    them the model is the suspect. Neural Cleanse and the surrogate ASR have images of their own: see `for_triggers`.
    """
    report, num_classes = inputs.clean.report, inputs.loaded.num_classes
    predictions = logits(model, report.pixels).argmax(1)
    success = None
    if inputs.triggered is not None:
        triggered = inputs.triggered
        success = attack_success(logits(model, triggered.images.pixels).argmax(1), triggered.images, triggered.targets)
    to_reverse, to_stamp = for_triggers(inputs.clean)
    found, tensors = _neural_cleanse(model, to_reverse, num_classes, detectors, seed, progress)
    if suspects_triggers is None and found is not None:
        suspects_triggers, suspects_flagged = as_triggers(tensors), found.flagged
    mpa, drop = accuracy(predictions, report.labels), None
    if model is not inputs.suspect:
        drop = accuracy_drop(logits(inputs.suspect, report.pixels).argmax(1), predictions, report.labels)
    surrogate = surrogate_asr(model, to_stamp, suspects_triggers, suspects_flagged or [])
    assessment = Assessment(
        mpa=mpa,
        mpa_images=len(report),
        mpa_interval=wilson_interval(mpa, len(report)),
        mpa_drop=contract.MpaDrop(**vars(drop)) if drop else None,
        mpa_per_class=accuracy_per_class(predictions, report.labels, num_classes),
        asr=success.asr if success else None,
        asr_images=success.counted if success else 0,
        asr_interval=wilson_interval(success.asr, success.counted) if success else None,
        recovery_accuracy=success.recovery_accuracy if success else None,
        surrogate_asr=surrogate,
        surrogate_asr_images=0 if surrogate is None else len(to_stamp),
        neural_cleanse=found,
    )
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


def _neural_cleanse(
    model: nn.Module,
    images: Images,
    num_classes: int,
    detectors: list[MethodRequest],
    seed: int,
    progress: Progress,
) -> tuple[contract.NeuralCleanse | None, dict[str, torch.Tensor]]:
    wanted = next((detector for detector in detectors if detector.name == "neural_cleanse"), None)
    if wanted is None:
        return None, {}
    result = DETECTORS["neural_cleanse"](
        model, images, num_classes=num_classes, seed=seed, progress=progress, **wanted.options
    )
    triggers = result.triggers
    found = contract.NeuralCleanse(
        **dataclasses.asdict(result.anomaly),
        norms=result.norms.tolist(),
        reached=triggers.reached.tolist(),
        pixels=images.pixels[0, 0].numel(),
        images=len(images),
        seeds=result.seeds,
        spread=result.spread.tolist(),
    )
    return found, {name: getattr(triggers, name) for name in ("masks", "patterns", "norms", "reached")}
