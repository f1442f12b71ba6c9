"""How large the lab's experiments are: `cpu` for two cores and an evening, `gpu` near the paper's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Profile:
    """`images` of the training set are trained on; `epochs` and `lr` of a network from scratch, `tune_epochs` and
    `tune_lr` of one that goes on training; `test_images` measure. `attacks` has the options of each
    attack that are not its defaults, and `purifiers` those of purifiers; with more clean images than `steps_of`, where
    there is such a number, they get fewer epochs, for as many steps as with so many."""

    name: str
    width: int
    images: int
    epochs: int
    lr: float
    tune_epochs: int
    tune_lr: float
    test_images: int
    steps_of: int | None = None
    batch_size: int = 128
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    purifiers: dict[str, dict[str, Any]] = field(default_factory=dict)


PROFILES = {
    "cpu": Profile(
        "cpu",
        width=16,
        images=20_000,
        epochs=12,
        lr=0.1,
        tune_epochs=6,
        tune_lr=0.05,
        test_images=2_000,
        steps_of=500,
        attacks={
            # A warp of more than a pixel on average: the paper's quarter takes a small network many more epochs.
            "wanet": {"strength": 2.5, "rate": 0.15},
            # Fewer epochs than the papers', each of more steps than theirs have, and a trigger that keeps up with them.
            "ingrain": {"epochs": 3, "trigger_lr": 4e-3},
            # About as many poisons as clean images of a class; the paper's victim has two to eight times so many.
            "hidden_trigger": {"per_class": 300},
            # The paper's sixteen pixels take its thirty epochs a round.
            "atteq_nn": {"rate": 0.1, "pixels": 64, "rounds": 2, "epochs": 4},
        },
        purifiers={"anp": {"steps": 200}},  # more learn the mask no better (docs/lab-notes.md), and take half an hour
    ),
    "gpu": Profile("gpu", width=64, images=47_500, epochs=60, lr=0.1, tune_epochs=20, tune_lr=0.01, test_images=10_000),
}
RESERVED = 2_500  # images of the training set that no suspect is trained on: the clean bundles are drawn from them
