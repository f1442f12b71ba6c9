"""The options of every purifier and detector, as they cross the wire.

They are the public face of the functions in `worker.algorithms`: names, types and defaults are the same, and a test
keeps them so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from redeem.contract import Request

SAGE_PAPER: dict[str, Any] = {
    "epochs": 100,
    "lr": 0.05,
    "lr_scale": "none",
    "schedule": "dynamic",
    "period": 25,
    "augmentation": "none",
    "averaging": 0.0,
    "own_logits": 0.0,
    "choose": "last",
}
"""Where the preset `paper` differs from `service`."""


def _weights(beta: float | list[float]) -> float | list[float]:
    # Not as constraints of the two types: an error would then name neither the option nor the other type.
    if min(beta if isinstance(beta, list) else [beta], default=-1) < 0:
        raise ValueError("every weight must be at least 0, and there must be one")
    return beta


Tap = Annotated[int, Field(ge=1)] | Annotated[str, Field(max_length=200)]
Path = tuple[Tap, Tap]


Epochs = Annotated[int, Field(ge=1, le=1000)]
BatchSize = Annotated[int, Field(ge=4, le=4096)]
Rate = Annotated[float, Field(gt=0, le=10)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
Beta = Annotated[float | list[float], AfterValidator(_weights)]
Schedule = Annotated[
    Literal["cosine", "dynamic", "fixed", "divided"],
    Field(description="the rate: down a cosine, halved by SAGE's rule, fixed, or divided by 10 every two epochs"),
]
Augmentation = Literal["none", "crop", "crop_and_flip"]
Choice = Annotated[
    Literal["held_out", "last"], Field(description="the epoch to give back: of the lowest held-out loss, or the last")
]
TapNames = Annotated[tuple[str, ...], Field(max_length=100, description="modules to read; none: they are found")]


class SageOptions(Request):
    """Self-attention distillation: deep layers' attention maps are aligned with shallower ones' on clean images.

    `preset` fills what is not given: `service` (the default) is short, augmented and safe on small bundles; `paper` has
    the constants of the paper (IEEE S&P 2023) for CIFAR-10 to the letter.
    """

    preset: Literal["service", "paper"] = "service"
    beta: Beta = Field(
        300.0, description="weight of the attention distances, at least 0, one for all or one a path; 0 is the control"
    )
    attention: Literal["sum", "sum_p", "max_p", "mean_p"] = Field(
        "sum_p", description="G: how channels become a map; sum of |F|, or sum, maximum, mean of |F|^p"
    )
    p: Annotated[float, Field(gt=0, le=8)] = 2.0
    normalize: bool = Field(True, description="N: maps to unit length before they are compared")
    distance: Literal["mse", "squares", "norm"] = Field(
        "mse", description="scale of L_SAD: mean of squares over pixels, their sum, or its root"
    )
    detach: Literal["none", "shallow", "deep"] = Field("none", description="the side that gets no gradient")
    taps: TapNames = ()
    paths: Literal["adjacent", "skip", "all"] | Annotated[list[Path], Field(min_length=1, max_length=100)] = Field(
        "adjacent", description="pairs of taps to align, by number (from 1) or name"
    )
    epochs: Epochs | None = Field(
        None, description="none: as many as the number of images needs; the report's history has them"
    )
    batch_size: BatchSize = 64
    lr: Rate = 0.03
    lr_scale: Literal["filters", "none"] = Field(
        "filters", description="the rate of a weight is relative to the mean square of its filters' norms, or is `lr`"
    )
    schedule: Schedule = "cosine"
    period: Annotated[int, Field(ge=1)] | None = Field(
        None, description="epochs between two checks of the dynamic rule; none: a sixth of them all"
    )
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 1e-4
    augmentation: Augmentation = "crop_and_flip"
    averaging: Annotated[float, Field(ge=0, lt=1, description="decay a step of the averaged weights; 0: none")] = 0.995
    own_logits: Annotated[float, Field(ge=0, description="weight of the suspect's own logits as soft labels")] = 1.0
    choose: Choice = "held_out"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            return {**SAGE_PAPER, **given}
        return given


class FineTuningOptions(Request):
    """Fine-tuning: all weights go on training on the clean images, by cross-entropy. The baseline of the others."""

    epochs: Epochs = 50
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    schedule: Schedule = "cosine"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class NadOptions(Request):
    """Neural attention distillation (ICLR 2021): a fine-tuned copy is the teacher of the suspect's attention maps."""

    beta: Beta = Field(
        1000.0, description="weight of the attention distances, at least 0, one for all or one a tap; 0 is fine-tuning"
    )
    taps: TapNames = ()
    teacher_epochs: Epochs = 10
    teacher_lr: Rate = 0.01
    epochs: Epochs = 20
    batch_size: BatchSize = 64
    lr: Rate = 0.02
    schedule: Schedule = "divided"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 1e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class NeuralCleanseOptions(Request):
    """Trigger reversal for every label, and the MAD anomaly index of the reversed masks' norms."""

    steps: Annotated[int, Field(ge=10, le=10_000)] = 300
    batch_size: Annotated[
        int, Field(ge=1, le=1024, description="clean images a step for each label; fewer with more than 12 labels")
    ] = 16
    lr: Rate = 0.1
    asr_threshold: Annotated[float, Field(gt=0, le=1, description="share of images a trigger has to flip")] = 0.99
    initial_cost: Annotated[float, Field(gt=0)] = 1e-3
    cost_multiplier: Annotated[float, Field(gt=1)] = 1.5
    seeds: Annotated[int, Field(ge=1, le=20, description="searches; the norm of a label is its median over them")] = 1


PURIFIER_OPTIONS: dict[str, type[Request]] = {
    "sage": SageOptions,
    "fine_tuning": FineTuningOptions,
    "nad": NadOptions,
}
DETECTOR_OPTIONS: dict[str, type[Request]] = {"neural_cleanse": NeuralCleanseOptions}
