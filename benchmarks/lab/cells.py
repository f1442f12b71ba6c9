"""One cell of the lab: a suspect, a purifier and a clean bundle, measured before and after; and its record."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.lab.claims import claim
from benchmarks.lab.datasets import Dataset, read
from benchmarks.lab.profiles import Profile
from benchmarks.lab.suspects import Recipe, Stamped, Suspect, asr, mpa, parts, suspect
from benchmarks.measuring import machine
from worker.algorithms.data import Images, split
from worker.algorithms.errors import AlgorithmError
from worker.algorithms.purifiers import PURIFIERS
from worker.stages.device import environment

HELD_OUT = 0.1  # of the clean images, for choices; accuracy and attack success are of test images


@dataclass(frozen=True)
class Cell:
    """`clean` images for the purifier, drawn by `seed` from those reserved, or with `seen` from the suspect's own
    training images, as the paper does it. The control of SAGE is `sage` with the option `beta` 0."""

    recipe: Recipe
    purifier: str
    clean: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    seen: bool = False

    @property
    def purifier_options(self) -> dict[str, Any]:
        """All that are not the purifier's defaults: what the profile says, and what this cell does."""
        profile = self.recipe.profile
        return {**_fewer_epochs(self), **profile.purifiers.get(self.purifier, {}), **self.options}

    @property
    def name(self) -> str:
        """Of its record. The defaults are part of it: where one changes, the old records are no longer found."""
        options = {**defaults(PURIFIERS[self.purifier]), **self.purifier_options}
        told = [self.recipe.hash, self.purifier, self.clean, self.seed, options, self.seen]
        return record_name(self.recipe, (self.purifier, self.clean, self.seed), told)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Cell:
        recipe = told["recipe"]
        return cls(**told | {"recipe": Recipe(**recipe | {"profile": Profile(**recipe["profile"])})})


def defaults(function: Callable[..., object]) -> dict[str, Any]:
    """Those of its options: what a run is given besides is no choice of the lab's."""
    options = inspect.signature(function).parameters.values()
    given = ("seed", "progress", "resume", "checkpoint")
    return {one.name: one.default for one in options if one.kind is one.KEYWORD_ONLY and one.name not in given}


def _fewer_epochs(cell: Cell) -> dict[str, int]:
    """The purifier's epochs for as many steps as it would take with the profile's `steps_of` images, where the cell
    has more."""
    most = cell.recipe.profile.steps_of
    if most is None or cell.clean <= most:
        return {}
    epochs = {name: value for name, value in defaults(PURIFIERS[cell.purifier]).items() if name.endswith("epochs")}
    return {name: math.ceil(value * most / cell.clean) for name, value in epochs.items() if value is not None}


def run(cell: Cell, folder: Path, cache: Path, device: torch.device, command: str) -> dict[str, Any]:
    """Measure a cell; what comes back is its record. A purifier that refuses is a result too: its error's code."""
    data = dataset(cell.recipe.dataset, folder)
    subject = suspect(cell.recipe, data, cache, device)
    record = {
        **cell.as_json(),
        "claim": claim(cell.recipe.dataset, cell.recipe.attack, cell.purifier, cell.clean, len(data.train)),
        "suspect": known(subject),
    }
    try:
        measured = _measured(cell, data, subject, device)
    except AlgorithmError as error:
        measured = {"refused": error.code, "why": str(error)}
    return record | measured | provenance(command, device)


def record_name(recipe: Recipe, words: Iterable[object], told: object) -> str:
    """Of a record about a suspect: its folder and file, readable by `words`, and another for every difference in what
    is `told`, which JSON can say."""
    short = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return f"{recipe.profile.name}/{recipe.dataset}/{'-'.join(map(str, (recipe.attack, *words, short)))}"


def known(subject: Suspect) -> dict[str, Any]:
    """What a record says of the suspect."""
    return {key: subject.figures[key] for key in ("mpa", "asr", "mpa_of_benign", "asr_of_benign")}


def figures(model: nn.Module, test: Images, stamped: list[Stamped], before: float) -> dict[str, Any]:
    """What a record says of what came out: the MPA and its drop from what it was `before`, and ASR and recovery
    accuracy of each trigger; fractions."""
    after, successes = mpa(model, test), [asr(model, one) for one in stamped]
    return {
        "mpa": round(after, 4),
        "mpa_drop": round(before - after, 4),
        "asr": [round(one.asr, 4) for one in successes],
        "recovery_accuracy": [round(one.recovery_accuracy, 4) for one in successes],
    }


def provenance(command: str, device: torch.device) -> dict[str, Any]:
    """What a record says of how it was made."""
    return {
        "command": command,
        "machine": machine(device),
        "environment": environment(device, "").model_dump(exclude={"redeem"}),
    }


@functools.cache
def dataset(name: str, folder: Path) -> Dataset:
    """Read once a process."""
    return read(name, folder)


def _measured(cell: Cell, data: Dataset, subject: Suspect, device: torch.device) -> dict[str, Any]:
    clean = bundle(cell, data).to(device)
    train, held_out = split(clean, (1 - HELD_OUT, HELD_OUT), cell.seed)
    options = cell.purifier_options
    purify = PURIFIERS[cell.purifier]
    if "augmentation" in inspect.signature(purify).parameters:
        options = {"augmentation": data.augmentation, **options}
    started = time.perf_counter()
    purified = purify(subject.model, train, held_out, seed=cell.seed, **options)
    seconds = time.perf_counter() - started
    test = data.test[torch.arange(cell.recipe.profile.test_images)].to(device)
    return {
        **figures(purified.model, test, subject.stamped, before=mpa(subject.model, test)),
        "chosen_epoch": purified.chosen_epoch,
        "notes": [f"{note.code}: {note.message}" for note in purified.notes],
        "seconds": round(seconds, 1),
    }


def bundle(cell: Cell, data: Dataset) -> Images:
    trained, reserved = parts(data, cell.recipe.profile)
    pool = trained if cell.seen else reserved
    generator = torch.Generator().manual_seed(1000 + cell.seed)
    return pool[torch.randperm(len(pool), generator=generator)[: cell.clean]]
