"""The options of every purifier and detector, as they cross the wire.

They are the public face of the functions in `worker.algorithms`: names, types and defaults are the same, and a test
keeps them so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from redeem.contract import Request

SAGE_PAPER: dict[str, Any] = {
    "epochs": 100,
    "lr": 0.05,
    "period": 25,
    "augmentation": "none",
    "averaging": 0.0,
    "own_logits": 0.0,
    "choose": "last",
}
"""Where the preset `paper` differs from `service`."""


class SageOptions(Request):
    """Self-attention distillation: deep layers' attention maps are aligned with shallower ones' on clean images.

    `preset` fills what is not given: `service` (the default) is short, augmented and safe on small bundles; `paper` has
    the constants of the paper (IEEE S&P 2023) for CIFAR-10 to the letter.
    """

    preset: Literal["service", "paper"] = "service"
    beta: Annotated[float, Field(ge=0, description="weight of the attention distances; 0 is the control")] = 300.0
    epochs: Annotated[int, Field(ge=1, le=1000)] = 30
    batch_size: Annotated[int, Field(ge=4, le=4096)] = 64
    lr: Annotated[float, Field(gt=0, le=10)] = 0.01
    period: Annotated[int, Field(ge=1, description="epochs between two checks of the learning-rate rule")] = 5
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    augmentation: Literal["none", "crop", "crop_and_flip"] = "crop_and_flip"
    averaging: Annotated[float, Field(ge=0, lt=1, description="decay a step of the averaged weights; 0: none")] = 0.995
    own_logits: Annotated[float, Field(ge=0, description="weight of the suspect's own logits as soft labels")] = 1.0
    choose: Literal["held_out", "last"] = "held_out"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            return {**SAGE_PAPER, **given}
        return given


class NeuralCleanseOptions(Request):
    """Trigger reversal for every label, and the MAD anomaly index of the reversed masks' norms."""

    steps: Annotated[int, Field(ge=10, le=10_000)] = 300
    batch_size: Annotated[int, Field(ge=1, le=1024, description="clean images a step, shared by all labels")] = 32
    lr: Annotated[float, Field(gt=0, le=10)] = 0.1
    asr_threshold: Annotated[float, Field(gt=0, le=1, description="share of images a trigger has to flip")] = 0.99
    initial_cost: Annotated[float, Field(gt=0)] = 1e-3
    cost_multiplier: Annotated[float, Field(gt=1)] = 1.5


PURIFIER_OPTIONS: dict[str, type[Request]] = {"sage": SageOptions}
DETECTOR_OPTIONS: dict[str, type[Request]] = {"neural_cleanse": NeuralCleanseOptions}
