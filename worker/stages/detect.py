"""The detectors beside Neural Cleanse: what each of them looks at, and its findings as the report has them.

They inform, and judge nothing. One that refuses a model or its images is told of, and does not fail the job.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from redeem import assessment
from redeem.assessment import Missing
from redeem.contract import MethodRequest
from redeem.wire import Resource
from worker.algorithms.aim import Aim
from worker.algorithms.data import Images
from worker.algorithms.detectors.activation_clustering import activation_clustering
from worker.algorithms.detectors.brain_stimulation import brain_stimulation
from worker.algorithms.detectors.retuning import retuning
from worker.algorithms.detectors.sentinet import sentinet
from worker.algorithms.detectors.strip import strip
from worker.algorithms.detectors.universal import standing_out, universal_perturbation
from worker.algorithms.detectors.universal_warp import universal_warp
from worker.algorithms.detectors.weight_path import weight_path
from worker.algorithms.errors import AlgorithmError
from worker.algorithms.training import Progress, between
from worker.algorithms.triggers import Trigger

Options = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """A `model`, the `suspect` that it was or still is, and the images for it.

    What is searched is searched on `to_search` and measured on `to_measure`: disjoint, and unseen by every purifier
    (`for_triggers` of `assess.py` says why). `train` is what the purifier trained on: to train on again, never to
    measure. `triggered` are the images that came as such. `surrogate` is the trigger that was reversed on the suspect
    for the flagged label with the smallest norm; None where none was flagged.
    """

    model: nn.Module
    suspect: nn.Module
    num_classes: int
    to_search: Images
    to_measure: Images
    train: Images
    triggered: Images | None
    surrogate: Aim[Trigger] | None
    seed: int

    @property
    def unseen(self) -> Images:
        """Both parts: the clean images that triggered ones are compared with. They are not the purifier's own, of which
        a purified model is surer than of any others."""
        parts = self.to_search, self.to_measure
        return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def detect(
    scene: Scene, detectors: list[MethodRequest], progress: Progress
) -> tuple[dict[str, Resource], list[Missing]]:
    """Run those of `detectors` that are listed below, one after the other: findings by name, and who has none."""
    found: dict[str, Resource] = {}
    missing = []
    for number, detector in enumerate(detectors):
        told = between(progress, number / len(detectors), (number + 1) / len(detectors))
        call = _call(detector.name, scene)
        if isinstance(call, Missing):
            missing.append(call)
        else:
            try:
                found[detector.name] = call(detector.options, told)
            except AlgorithmError as error:
                missing.append(Missing(detector=detector.name, kind="refused", reason=str(error), advice=error.hint))
        told(1.0)
    return found, missing


def _call(name: str, scene: Scene) -> Callable[[Options, Progress], Resource] | Missing:
    """How to run a detector, or why it cannot be run."""
    if name in MODEL_ALONE:
        return functools.partial(MODEL_ALONE[name], scene)
    if name in ON_TRIGGERED:
        if scene.triggered is None:
            return Missing(
                detector=name,
                kind="not_run",
                reason="it looks at triggered images, and none came with the job",
                advice="Send a triggered bundle: stamped images under their true labels.",
            )
        return functools.partial(ON_TRIGGERED[name], scene, scene.triggered)
    if scene.surrogate is None:
        return Missing(
            detector=name,
            kind="not_run",
            reason="it works with a trigger reversed for a label that Neural Cleanse flagged on the suspect, and there "
            "is none",
            advice="Ask for neural_cleanse as well; where that flags no label, a triggered bundle would decide.",
        )
    return functools.partial(AFTERWARDS[name], scene, scene.surrogate)


def _brain_stimulation(scene: Scene, options: Options, progress: Progress) -> assessment.BrainStimulation:
    found = brain_stimulation(
        scene.model, scene.to_search, scene.to_measure, seed=scene.seed, progress=progress, **options
    )
    return assessment.BrainStimulation(
        flagged=found.flagged,
        neurons=[
            assessment.Neuron(
                channel=each.channel,
                label=each.label,
                consistency=each.consistency,
                lead=each.lead,
                pixels=each.pixels,
                asr=each.asr,
            )
            for each in found.candidates
        ],
        layer=found.tap.name.removeprefix("network."),
        images=len(scene.to_search),
        images_measured=len(scene.to_measure),
    )


def _universal_perturbation(scene: Scene, options: Options, progress: Progress) -> assessment.UniversalPerturbation:
    return assessment.UniversalPerturbation(**_universal(universal_perturbation, scene, options, progress))


def _universal_warp(scene: Scene, options: Options, progress: Progress) -> assessment.UniversalWarp:
    return assessment.UniversalWarp(**_universal(universal_warp, scene, options, progress))


def _universal(search: Callable[..., Any], scene: Scene, options: Options, progress: Progress) -> dict[str, Any]:
    """What a search of one thing a label found: how easily each label is reached, and which stands out."""
    found = search(
        scene.model,
        scene.to_search,
        scene.to_measure,
        num_classes=scene.num_classes,
        seed=scene.seed,
        progress=progress,
        **options,
    )
    return {
        "stands_out": standing_out(found),
        "success": found.success,
        "radius": found.radius,
        "images": len(scene.to_search),
        "images_measured": len(scene.to_measure),
    }


def _strip(scene: Scene, triggered: Images, options: Options, progress: Progress) -> assessment.Strip:
    clean = scene.unseen
    found = strip(scene.model, clean, triggered, seed=scene.seed, progress=progress, **options)
    return assessment.Strip(
        flagged_share=found.flagged_share,
        threshold=found.threshold,
        false_rejection=found.false_rejection,
        images=len(triggered),
        clean_images=len(clean),
    )


def _sentinet(scene: Scene, triggered: Images, options: Options, progress: Progress) -> assessment.SentiNet:
    clean = scene.unseen
    found = sentinet(scene.model, clean, triggered, seed=scene.seed, progress=progress, **options)
    return assessment.SentiNet(
        flagged_share=found.flagged_share,
        false_rejection=found.false_rejection,
        images=len(triggered),
        clean_images=len(clean),
    )


def _activation_clustering(
    scene: Scene, triggered: Images, options: Options, progress: Progress
) -> assessment.ActivationClustering:
    clean = scene.unseen
    found = activation_clustering(
        scene.model, clean, triggered, num_classes=scene.num_classes, seed=scene.seed, progress=progress, **options
    )
    return assessment.ActivationClustering(
        flagged_labels=found.flagged_labels,
        flagged_share=found.flagged.float().mean().item(),
        silhouettes=found.silhouettes,
        relative_sizes=found.relative_sizes,
        images=len(triggered),
        clean_images=len(clean),
    )


def _retuning(scene: Scene, surrogate: Aim[Trigger], options: Options, progress: Progress) -> assessment.Retuning:
    found = retuning(
        scene.model, scene.train, scene.to_measure, surrogate, seed=scene.seed, progress=progress, **options
    )
    return assessment.Retuning(
        label=surrogate.target, comeback=found.comeback, images=len(scene.to_measure), **vars(found)
    )


def _weight_path(scene: Scene, surrogate: Aim[Trigger], options: Options, progress: Progress) -> assessment.WeightPath:
    found = weight_path(scene.suspect, scene.model, scene.to_measure, surrogate, progress=progress, **options)
    return assessment.WeightPath(
        label=surrogate.target,
        barrier=found.barrier,
        alive_until=found.alive_until,
        images=len(scene.to_measure),
        **vars(found),
    )


MODEL_ALONE: dict[str, Callable[[Scene, Options, Progress], Resource]] = {
    "brain_stimulation": _brain_stimulation,
    "universal_perturbation": _universal_perturbation,
    "universal_warp": _universal_warp,
}
"""They need nothing but clean images."""

ON_TRIGGERED: dict[str, Callable[[Scene, Images, Options, Progress], Resource]] = {
    "strip": _strip,
    "sentinet": _sentinet,
    "activation_clustering": _activation_clustering,
}
"""They look at triggered images beside clean ones."""

AFTERWARDS: dict[str, Callable[[Scene, Aim[Trigger], Options, Progress], Resource]] = {
    "retuning": _retuning,
    "weight_path": _weight_path,
}
"""They ask of a purified model what became of the suspect's backdoor."""
