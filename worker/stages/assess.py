"""Measure a model: before purification, and again after it, by the same rules and on the same images."""

from __future__ import annotations

import torch
from torch import nn

from redeem import contract
from redeem.contract import Assessment, MethodRequest
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.detectors.neural_cleanse import ReversedTriggers
from worker.algorithms.metrics import accuracy, accuracy_per_class, attack_success, logits
from worker.algorithms.training import Progress, ignore
from worker.stages.kept import Kept
from worker.stages.load import Inputs


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

    MPA is of the report part of the clean bundle, which nothing else has seen; Neural Cleanse works on that and the
    held-out part. The surrogate ASR stamps the triggers that were reversed on the **suspect** for its flagged
    labels: give them when a purified model is measured. Without them the model is the suspect.
    """
    report, num_classes = inputs.clean.report, inputs.loaded.num_classes
    predictions = logits(model, report.pixels).argmax(1)
    success = None
    if inputs.triggered is not None:
        triggered = inputs.triggered
        success = attack_success(logits(model, triggered.images.pixels).argmax(1), triggered.images, triggered.targets)
    found, tensors = _neural_cleanse(model, inputs, detectors, seed, progress)
    if suspects_triggers is None and found is not None:
        suspects_triggers, suspects_flagged = as_triggers(tensors), found.flagged
    assessment = Assessment(
        mpa=accuracy(predictions, report.labels),
        mpa_images=len(report),
        mpa_per_class=accuracy_per_class(predictions, report.labels, num_classes),
        asr=success.asr if success else None,
        asr_images=success.counted if success else 0,
        recovery_accuracy=success.recovery_accuracy if success else None,
        surrogate_asr=surrogate_asr(model, report, suspects_triggers, suspects_flagged or []),
        neural_cleanse=found,
    )
    return Kept(assessment.model_dump(mode="json"), tensors)


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
    model: nn.Module, inputs: Inputs, detectors: list[MethodRequest], seed: int, progress: Progress
) -> tuple[contract.NeuralCleanse | None, dict[str, torch.Tensor]]:
    wanted = next((detector for detector in detectors if detector.name == "neural_cleanse"), None)
    if wanted is None:
        return None, {}
    unseen = Images(
        torch.cat([inputs.clean.held_out.pixels, inputs.clean.report.pixels]),
        torch.cat([inputs.clean.held_out.labels, inputs.clean.report.labels]),
    )
    result = DETECTORS["neural_cleanse"](
        model, unseen, num_classes=inputs.loaded.num_classes, seed=seed, progress=progress, **wanted.options
    )
    triggers = result.triggers
    found = contract.NeuralCleanse(
        index=result.anomaly.index,
        p_value=result.anomaly.p_value,
        flagged=result.anomaly.flagged,
        norms=triggers.norms.tolist(),
        reached=triggers.reached.tolist(),
    )
    return found, {name: getattr(triggers, name) for name in ("masks", "patterns", "norms", "reached")}
