"""The options of every purifier, as they cross the wire; those of the detectors are in `detector_options.py`.

They are the public face of the functions in `worker.algorithms`: names, types and defaults are the same, and a test
keeps them so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from redeem.wire import Request

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
OwnLogits = Annotated[float, Field(ge=0, description="weight of the suspect's own logits as soft labels")]
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
MaxDrop = Annotated[float, Field(ge=0, le=1, description="held-out accuracy at whose loss pruning stops")]
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
    own_logits: OwnLogits = 1.0
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


class PruningOptions(Request):
    """Pruning (RAID 2018): the channels of the last stage that sleep on clean images, as long as accuracy stays."""

    max_drop: MaxDrop = 0.05


class FinePruningOptions(Request):
    """Fine-Pruning (RAID 2018): pruned as by `pruning`, then fine-tuned; what was pruned stays so."""

    max_drop: MaxDrop = 0.05
    epochs: Epochs = 50
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    schedule: Schedule = "cosine"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class AnpOptions(Request):
    """Adversarial neuron pruning (NeurIPS 2021): the channels of batch norms that small perturbations upset most."""

    epsilon: Annotated[float, Field(ge=0, le=10, description="size of the perturbation, of scale and shift")] = 0.4
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of the loss without perturbation")] = 0.2
    steps: Annotated[int, Field(ge=1, le=100_000, description="in which the mask is learnt")] = 2000
    batch_size: BatchSize = 128
    lr: Rate = 0.2
    momentum: Momentum = 0.9
    augmentation: Augmentation = "crop_and_flip"
    max_drop: MaxDrop = 0.05


class ClpOptions(Request):
    """Channel Lipschitzness-based pruning (ECCV 2022): channels that could grow far more than others of their layer."""

    u: Annotated[float, Field(ge=0, le=100, description="standard deviations above the mean")] = 3.0


class FtSamOptions(Request):
    """Fine-tuning by sharpness-aware minimisation (ICCV 2023): it shrinks large weights, which backdoors live in."""

    rho: Annotated[float, Field(ge=0, le=100, description="radius of the neighbourhood; 0 is fine-tuning")] = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    epochs: Epochs = 100
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    schedule: Schedule = "cosine"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class FstOptions(Request):
    """Feature shift tuning (NeurIPS 2023): a new head is pushed off the suspect's, and the features follow."""

    alpha: Annotated[
        float, Field(ge=0, le=1000, description="weight of the inner product with the old head; small for many classes")
    ] = 0.1
    epochs: Epochs = 10
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    schedule: Schedule = "cosine"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class McrOptions(Request):
    """Mode connectivity repair (ICLR 2020): a point of a curve of accurate networks, from the suspect to a fine-tuned
    copy."""

    points: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...],
        Field(min_length=1, max_length=100, description="t to choose from: 0 is the suspect, 1 the fine-tuned copy"),
    ] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    tolerance: Annotated[
        float, Field(ge=0, le=1, description="by which a point's held-out accuracy may be below the fine-tuned copy's")
    ] = 0.05
    end_epochs: Epochs = 50
    end_lr: Rate = 0.01
    epochs: Epochs = 100
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    schedule: Schedule = "cosine"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class IBauOptions(Request):
    """Backdoor adversarial unlearning (ICLR 2022), reduced: trained against one perturbation that misleads on nearly
    all images."""

    radius: Annotated[
        float, Field(ge=0, le=1, description="root mean square of the perturbation, of [0, 1]; 0 is fine-tuning")
    ] = 0.08
    step: Annotated[float, Field(gt=0, le=2, description="one step of its ascent, of the radius")] = 0.2
    share: Annotated[float, Field(ge=0, le=1, description="of a batch that carries it")] = 0.1
    epochs: Epochs = 20
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    schedule: Schedule = "cosine"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class UnlearningOptions(Request):
    """Unlearning by Neural Cleanse (S&P 2019): fine-tuned with the reversed trigger on images with true labels."""

    triggers: Annotated[
        tuple[Literal["patch", "pattern", "warp"], ...],
        Field(min_length=1, max_length=3, description="kinds to search: patches, faint patterns over all, warps"),
    ] = ("patch",)
    share: Annotated[float, Field(ge=0, le=1, description="of a batch that is stamped")] = 0.2
    own_logits: OwnLogits = 1.0
    steps: Annotated[int, Field(ge=10, le=10_000, description="of Neural Cleanse")] = 300
    epochs: Epochs = 20
    batch_size: BatchSize = 64
    lr: Rate = 0.01
    schedule: Schedule = "cosine"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    augmentation: Augmentation = "crop_and_flip"
    choose: Choice = "last"


class AutoOptions(Request):
    """SAGE first, and the next of a ladder where what can be known without a trigger says that it was not enough."""

    ladder: Annotated[
        tuple[Literal["sage", "clp", "unlearning", "i_bau", "ft_sam"], ...],
        Field(min_length=1, max_length=10, description="purifiers to try, in this order"),
    ] = ("sage", "clp", "unlearning", "i_bau")
    max_drop: Annotated[float, Field(gt=0, le=1, description="of held-out accuracy, at which an attempt is enough")] = (
        0.03
    )
    max_residue: Annotated[
        float, Field(gt=0, le=1, description="of a backdoor: the attack success of triggers that can be found")
    ] = 0.2
    steps: Annotated[int, Field(ge=10, le=10_000, description="of Neural Cleanse")] = 300


PURIFIER_OPTIONS: dict[str, type[Request]] = {
    "sage": SageOptions,
    "fine_tuning": FineTuningOptions,
    "nad": NadOptions,
    "pruning": PruningOptions,
    "fine_pruning": FinePruningOptions,
    "anp": AnpOptions,
    "clp": ClpOptions,
    "ft_sam": FtSamOptions,
    "fst": FstOptions,
    "mcr": McrOptions,
    "i_bau": IBauOptions,
    "unlearning": UnlearningOptions,
    "auto": AutoOptions,
}
