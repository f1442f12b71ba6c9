"""The straight line from the suspect's weights to the purified ones: how far purification has gone, and whether it left
the basin of the backdoor.

θ(t) = (1 - t) θ_suspect + t θ_purified, batch-norm statistics too. Where the backdoor works almost to the end of the
line and the loss meets no barrier on it, removal is superficial, and a few steps lead back (Min et al., NeurIPS 2024).
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.data import Images
from worker.algorithms.errors import WeightsMismatch
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.notes import Note
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Stamp

ALIVE = 0.5  # of the suspect's surrogate ASR: above it the backdoor works
SUPERFICIAL = 0.8  # of the line: a backdoor that works so long was hardly removed
TINY = 1e-12  # a norm; weights that are all zero have not changed by a share of it
FLAT = 0.1  # nats above the straight line between the losses of the ends: less is no barrier


@dataclass(frozen=True)
class WeightPath:
    """Measured at `positions` t from 0, the suspect, to 1, the purified model: `losses` (mean cross-entropy, nats) and
    `accuracies` on clean images, `surrogate_asrs` on stamped ones (None where no image counts).

    `changes`: ‖θ_purified - θ_suspect‖ / ‖θ_suspect‖ of the trained weights, by stage.
    """

    positions: list[float]
    losses: list[float]
    accuracies: list[float]
    surrogate_asrs: list[float | None]
    changes: dict[str, float]

    @property
    def barrier(self) -> float:
        """How far the loss rises above the straight line between its two ends, in nats (Frankle et al. 2020)."""
        first, last = self.losses[0], self.losses[-1]
        pairs = zip(self.positions, self.losses, strict=True)
        return max(loss - ((1 - position) * first + position * last) for position, loss in pairs)

    @property
    def alive_until(self) -> float | None:
        """The last position at which the surrogate ASR is half of the suspect's or more; None where it was not
        measured, or is zero on the suspect."""
        if not self.surrogate_asrs[0]:
            return None
        alive = ALIVE * self.surrogate_asrs[0]
        pairs = zip(self.positions, self.surrogate_asrs, strict=True)
        return max(position for position, asr in pairs if asr is not None and asr >= alive)


def weight_path(
    suspect: nn.Module,
    purified: nn.Module,
    images: Images,
    surrogate: Aim[Stamp],
    *,
    points: int = 11,
    progress: Progress = ignore,
) -> WeightPath:
    """Measure the models at `points` evenly spaced places of the line, the ends included, on clean `images`.

    `surrogate` is the reversed trigger of a flagged label, with that label. Nothing is changed. Raises
    `WeightsMismatch` where the two state dicts differ in names or shapes.

    A stage is named by its weights' names up to the first number (`layer3`, `features.0`), so a ResNet has its stages,
    and a plain network its layers.
    """
    start, end = _state(suspect), _state(purified)
    if {name: value.shape for name, value in start.items()} != {name: value.shape for name, value in end.items()}:
        raise WeightsMismatch("the suspect and the purified model differ in the names or shapes of their weights")
    between = copy.deepcopy(suspect).eval()
    positions = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    losses, accuracies, asrs = [], [], []
    for number, position in enumerate(positions, start=1):
        between.load_state_dict({name: _lerp(value, end[name], position) for name, value in start.items()})
        found = logits(between, images.pixels)
        losses.append(F.cross_entropy(found, images.labels).item())
        accuracies.append(accuracy(found.argmax(1), images.labels))
        reached = success(between, images, surrogate)
        asrs.append(reached.asr if reached else None)
        progress(number / points)
    return WeightPath(positions, losses, accuracies, asrs, _changes(suspect, purified))


def notes(path: WeightPath) -> list[Note]:
    """What the path says of the purification."""
    alive = path.alive_until
    if alive is None or not SUPERFICIAL <= alive < 1 or path.barrier > FLAT:
        return []
    return [
        Note(
            "removal_superficial",
            f"On the straight line from the suspect to the purified model the reversed trigger works up to {alive:.0%} "
            "of the way, and the loss meets no barrier.",
            "A few steps of training may bring the backdoor back. Purify for more epochs, or with another purifier.",
        )
    ]


def _state(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    return state


def _lerp(start: Tensor, end: Tensor, position: float) -> Tensor:
    """Between the two, exactly the ends at the ends; what cannot be divided, such as a count of batches, is the
    start's."""
    return torch.lerp(start, end.to(start), position) if start.is_floating_point() else start


def _changes(suspect: nn.Module, purified: nn.Module) -> dict[str, float]:
    squares: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2))
    pairs = zip(suspect.named_parameters(), purified.parameters(), strict=True)
    for (name, before), after in pairs:
        change, size = (after.detach() - before.detach()).double(), before.detach().double()
        both = torch.stack([change.square().sum(), size.square().sum()])
        squares[stage(name)] = squares[stage(name)].to(both) + both
    changes = torch.stack([change.sqrt() / size.sqrt().clamp(min=TINY) for change, size in squares.values()]).tolist()
    return dict(zip(squares, changes, strict=True))


def stage(name: str) -> str:
    """The stage of a weight: its module's name up to the first part with a number in it."""
    parts = name.removeprefix("network.").split(".")[:-1]
    numbered = next((place for place, part in enumerate(parts) if re.search(r"\d", part)), len(parts) - 1)
    return ".".join(parts[: numbered + 1])
