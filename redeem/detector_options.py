"""The options of every detector, as they cross the wire; a test keeps them those of the functions, as in `options.py`.

Each docstring is what the server's catalogue says of a detector: on what it looks, too.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from redeem.options import BatchSize, Epochs, Momentum, Rate
from redeem.wire import Request

Steps = Annotated[int, Field(ge=10, le=10_000)]
Each = Annotated[
    int, Field(ge=1, le=1024, description="clean images a step for each label; fewer with more than 12 labels")
]
Overlays = Annotated[int, Field(ge=1, le=1000, description="clean images that each image is tried on")]
FalseRejection = Annotated[float, Field(gt=0, lt=1, description="share of the clean images to be flagged")]


class NeuralCleanseOptions(Request):
    """Trigger reversal for every label, and the MAD anomaly index of the reversed masks' norms. Looks at the model
    alone, before and after purification."""

    steps: Steps = 300
    batch_size: Each = 16
    lr: Rate = 0.1
    asr_threshold: Annotated[float, Field(gt=0, le=1, description="share of images a trigger has to flip")] = 0.99
    initial_cost: Annotated[float, Field(gt=0)] = 1e-3
    cost_multiplier: Annotated[float, Field(gt=1)] = 1.5
    seeds: Annotated[int, Field(ge=1, le=20, description="searches; the norm of a label is its median over them")] = 1


class BrainStimulationOptions(Request):
    """Artificial brain stimulation (ABS, CCS 2019): neurons that lead every image to one label when they are driven,
    and small triggers that drive them. Looks at the model alone, before and after purification."""

    seeds: Annotated[int, Field(ge=1, le=1024, description="clean images whose neurons are stimulated")] = 32
    levels: Annotated[int, Field(ge=1, le=64, description="of stimulation, up to twice the highest activation")] = 8
    consistency: Annotated[
        float, Field(gt=0, le=1, description="share of the images for which a neuron has to raise the same label")
    ] = 0.75
    most: Annotated[int, Field(ge=1, le=100, description="neurons that a trigger is reversed for")] = 10
    pixels: Annotated[float, Field(gt=0, le=1_000_000, description="size that a trigger may have")] = 16.0
    asr_threshold: Annotated[float, Field(gt=0, le=1, description="attack success at which a label is flagged")] = 0.88
    steps: Steps = 200
    batch_size: Annotated[int, Field(ge=1, le=1024, description="clean images a step for each neuron")] = 16
    lr: Rate = 0.1


class UniversalPerturbationOptions(Request):
    """Targeted universal perturbations: for each label one faint pattern that leads most images there, and whether one
    label is far easier to reach than the others. Looks at the model alone, before and after purification; mostly blind
    to small patches."""

    radius: Annotated[float, Field(gt=0, le=1, description="most that a value changes, of [0, 1]")] = 8 / 255
    steps: Annotated[int, Field(ge=1, le=10_000)] = 100
    batch_size: Each = 16


class UniversalWarpOptions(Request):
    """Targeted universal warps: for each label one smooth warp that leads most images there, and whether one label is
    far easier to reach than the others, as the target of WaNet is. Looks at the model alone, before and after
    purification."""

    radius: Annotated[float, Field(gt=0, le=100, description="most that a pixel moves, in pixels")] = 1.0
    points: Annotated[int, Field(ge=2, le=64, description="a side that are moved; in between it is smooth")] = 4
    steps: Annotated[int, Field(ge=1, le=10_000)] = 60
    batch_size: Each = 16


class StripOptions(Request):
    """STRIP (ACSAC 2019): triggered images keep their label whatever is laid over them. Needs a triggered bundle; looks
    before and after purification."""

    overlays: Overlays = 64
    strength: Annotated[float, Field(gt=0, le=1, description="of the images laid over, which are added")] = 1.0
    false_rejection: FalseRejection = 0.05


class SentiNetOptions(Request):
    """SentiNet (2018): the region that decides a triggered image takes its label along to other images. Needs a
    triggered bundle; looks before and after purification. For triggers that are small patches."""

    overlays: Overlays = 100
    level: Annotated[float, Field(gt=0, le=1, description="of the heat map's maximum: where the region ends")] = 0.85
    false_rejection: FalseRejection = 0.05


class ActivationClusteringOptions(Request):
    """Activation clustering (2018): triggered images are a cluster of their own in the features of the label that they
    are taken for. Needs a triggered bundle; looks before and after purification."""

    dimensions: Annotated[int, Field(ge=1, le=1000, description="principal components of the features")] = 10
    largest_size: Annotated[
        float, Field(ge=0, le=1, description="relative size of a cluster, below which it is flagged")
    ] = 0.35
    smallest_silhouette: Annotated[
        float, Field(ge=-1, le=1, description="distance of two clusters, above which one is flagged")
    ] = 0.1


class RetuningOptions(Request):
    """The re-tuning attack (NeurIPS 2024): does the backdoor come back when a few images with the reversed trigger get
    into further training? Looks after purification only, at the label with the smallest trigger that neural_cleanse
    flagged on the suspect."""

    triggered: Annotated[int, Field(ge=1, le=1000, description="images that carry the trigger")] = 5
    epochs: Epochs = 5
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    momentum: Momentum = 0.9


class WeightPathOptions(Request):
    """The straight line from the suspect's weights to the purified ones: where on it the backdoor dies, and whether the
    loss meets a barrier. Looks after purification only, at the label with the smallest trigger that neural_cleanse
    flagged on the suspect."""

    points: Annotated[int, Field(ge=2, le=101, description="places of the line, the ends included")] = 11


DETECTOR_OPTIONS: dict[str, type[Request]] = {
    "neural_cleanse": NeuralCleanseOptions,
    "brain_stimulation": BrainStimulationOptions,
    "universal_perturbation": UniversalPerturbationOptions,
    "universal_warp": UniversalWarpOptions,
    "strip": StripOptions,
    "sentinet": SentiNetOptions,
    "activation_clustering": ActivationClusteringOptions,
    "retuning": RetuningOptions,
    "weight_path": WeightPathOptions,
}
