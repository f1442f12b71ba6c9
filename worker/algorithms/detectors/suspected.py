"""The triggers that a model seems to answer to, of three kinds: what unlearning unlearns, and `auto` tests with.

Patches are searched by Neural Cleanse, faint patterns over the whole image by universal perturbations, and warps by
universal warps. A trigger is suspected where it leads to its label far more easily than others to theirs: a patch of
less than a quarter of the median size, or one that Neural Cleanse flags, a pattern or a warp that stands out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

from worker.algorithms.aim import Aim
from worker.algorithms.data import Images
from worker.algorithms.detectors.anomaly import SMALL_NORM
from worker.algorithms.detectors.neural_cleanse import NeuralCleanse, neural_cleanse
from worker.algorithms.detectors.universal import Shift, standing_out, universal_perturbation
from worker.algorithms.detectors.universal_warp import universal_warp
from worker.algorithms.metrics import logits
from worker.algorithms.training import Progress, between, ignore
from worker.algorithms.triggers import Stamp, Trigger
from worker.algorithms.warp import Warp

Kind = Literal["patch", "pattern", "warp"]
KINDS: tuple[Kind, ...] = ("patch", "pattern", "warp")
STAMPS: dict[Kind, type[Trigger | Shift | Warp]] = {"patch": Trigger, "pattern": Shift, "warp": Warp}


class Put(Stamp, Protocol):
    """A trigger that can be put on images in training too."""

    def put(self, x: Tensor) -> Tensor:
        """float (N, C, H, W) in [0, 1] to the same, triggered."""
        ...


def suspected(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    kinds: Sequence[Kind] = KINDS,
    steps: int = 300,
    seed: int = 0,
    progress: Progress = ignore,
) -> tuple[list[Aim[Put]], Aim[Put] | None]:
    """The suspected triggers of `model` of these kinds, with their labels, and the smallest patch of all if it reached
    its label.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. Triggers are searched on `clean`, and those
    over the whole image measured on `held_out`. `steps` are those of Neural Cleanse; the other searches have their own.
    """
    classes = logits(model, clean.pixels[:1]).shape[1]
    found: list[Aim[Put]] = []
    smallest: Aim[Put] | None = None
    for number, wanted in enumerate(kinds):
        told = between(progress, number / len(kinds), (number + 1) / len(kinds))
        if wanted == "patch":
            cleansed = neural_cleanse(model, clean, num_classes=classes, steps=steps, seed=seed, progress=told)
            by_size = [label for label in cleansed.norms.argsort().tolist() if cleansed.triggers.reached[label]]
            patches: list[Aim[Put]] = [Aim(cleansed.triggers[label], label) for label in by_size]
            found.extend(patch for patch in patches if _small(cleansed, patch.target))
            smallest = patches[0] if patches else None
        else:
            search = universal_perturbation if wanted == "pattern" else universal_warp
            triggers = search(model, clean, held_out, num_classes=classes, seed=seed, progress=told)
            easiest = standing_out(triggers)
            if easiest is not None:
                found.append(Aim(triggers[easiest], easiest))
    return found, smallest


def _small(cleansed: NeuralCleanse, label: int) -> bool:
    """Whether a trigger is small enough for suspicion, which is cheaper than a verdict: where norms scatter, as on
    networks of low accuracy, a tenth of the median is not significant."""
    flagged = label in cleansed.anomaly.flagged
    return flagged or float(cleansed.norms[label]) < SMALL_NORM * cleansed.anomaly.median


def kind(trigger: Put) -> Kind:
    """Of which kind a suspected trigger is."""
    return next(name for name, stamp in STAMPS.items() if isinstance(trigger, stamp))


def pack(aims: Sequence[Aim[Put]]) -> dict[str, Tensor]:
    """Triggers as named tensors, for a checkpoint."""
    packed: dict[str, Tensor] = {}
    for number, aim in enumerate(aims):
        name = f"{number}/{kind(aim.trigger)}/{aim.target}"
        packed |= {f"{name}/{part}": tensor for part, tensor in vars(aim.trigger).items()}
    return packed


def unpack(packed: dict[str, Tensor]) -> list[Aim[Put]]:
    """What `pack` packed."""
    parts: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    for name, tensor in packed.items():
        number, of_kind, target, part = name.split("/")
        parts.setdefault((number, of_kind, target), {})[part] = tensor
    stamps: dict[str, type[Trigger | Shift | Warp]] = dict(STAMPS.items())
    return [Aim(stamps[of_kind](**tensors), int(target)) for (_, of_kind, target), tensors in parts.items()]
