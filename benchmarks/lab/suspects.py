"""A suspect by its recipe: trained once, and kept in the zoo under the recipe's hash with its triggered images."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.lab import zoo
from benchmarks.lab.datasets import Dataset
from benchmarks.lab.profiles import RESERVED, Profile
from benchmarks.lab.zoo import Aimed
from benchmarks.measuring import machine
from worker.algorithms.aim import Aim
from worker.algorithms.architectures import build
from worker.algorithms.attacks import ATTACKS
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.augment import unchanged
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.features import LastLayerAlone
from worker.algorithms.metrics import AttackSuccess, accuracy, attack_success, logits
from worker.algorithms.taps import PROBED
from worker.algorithms.training import fit
from worker.algorithms.triggers import Stamp

BENIGN = "none"


@dataclass(frozen=True)
class Recipe:
    """All that a suspect follows from. `attack` is a name of ATTACKS, or `none` for the benign twin."""

    attack: str
    seed: int
    profile: Profile
    dataset: str = "cifar10"
    network: str = "paper/resnet18"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def attack_options(self) -> dict[str, Any]:
        return {**self.profile.attacks.get(self.attack, {}), **self.options}

    @property
    def needs_twin(self) -> bool:
        """Whether the attack is made for the benign twin."""
        return self.attack != BENIGN and "benign" in inspect.signature(ATTACKS[self.attack]).parameters

    @property
    def hash(self) -> str:
        """Of what the training follows from: other attacks' and the purifiers' options are no part of it, nor how
        networks go on training where this one does not."""
        told = dataclasses.asdict(dataclasses.replace(self, options=self.attack_options))
        tuning = () if self.needs_twin else ("tune_epochs", "tune_lr")
        for name in ("attacks", "purifiers", "steps_of", *tuning):
            del told["profile"][name]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Stamped:
    """Test images that carry a trigger, with their true labels, and what the attacker wants them taken for."""

    images: Images
    target: int


@dataclass(frozen=True)
class Suspect:
    model: Classifier
    stamped: list[Stamped]
    figures: dict[str, Any]


def suspect(recipe: Recipe, data: Dataset, cache: Path, device: torch.device) -> Suspect:
    """From the zoo in `cache`, or trained now; its benign twin is trained first where it is not there yet."""
    file = cache / f"{recipe.attack}-{recipe.dataset}-{recipe.hash}.npz"
    test = data.test[torch.arange(recipe.profile.test_images)].to(device)
    if not file.exists():
        _make(recipe, data, cache, device, file)
    model = fresh(recipe, data).to(device)
    stamped = [_counted(aim, test) for aim in zoo.read(file, model.network, test)]
    return Suspect(model.eval(), stamped, json.loads(file.with_suffix(".json").read_text()))


def fresh(recipe: Recipe, data: Dataset) -> Classifier:
    """An untrained network, the same for all attacks of a seed."""
    options = {"width": recipe.profile.width} if "resnet" in recipe.network else {}
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = build(recipe.network, num_classes=data.num_classes, in_channels=data.in_channels, options=options)
    return Classifier(network, data.mean, data.std)


def parts(data: Dataset, profile: Profile) -> tuple[Images, Images]:
    """What suspects are trained on, and the images reserved for clean bundles; the same for all seeds."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    return data.train[order[RESERVED : RESERVED + profile.images]], data.train[order[:RESERVED]]


def asr(model: nn.Module, stamped: Stamped) -> AttackSuccess:
    targets = torch.full_like(stamped.images.labels, stamped.target)
    success = attack_success(logits(model, stamped.images.pixels).argmax(1), stamped.images, targets)
    assert success is not None  # images of the target's own class are left out when they are stamped
    return success


def mpa(model: nn.Module, test: Images) -> float:
    return accuracy(logits(model, test.pixels).argmax(1), test.labels)


def _make(recipe: Recipe, data: Dataset, cache: Path, device: torch.device, file: Path) -> None:
    twin = None
    if recipe.attack != BENIGN:
        twin = suspect(dataclasses.replace(recipe, attack=BENIGN, options={}), data, cache, device)
    started = time.perf_counter()
    model, aims = _attacked(recipe, data, twin, device)
    seconds = time.perf_counter() - started
    test = data.test[torch.arange(recipe.profile.test_images)].to(device)
    triggered = [_triggered(aim, test) for aim in aims]
    stamped = [_counted(aim, test) for aim in triggered]
    figures: dict[str, Any] = {
        "recipe": dataclasses.asdict(recipe) | {"options": recipe.attack_options, "profile": recipe.profile.name},
        "mpa": round(mpa(model, test), 4),
        "asr": [round(asr(model, one).asr, 4) for one in stamped],
        "targets": [one.target for one in stamped],
        "mpa_of_benign": twin and twin.figures["mpa"],
        "asr_of_benign": [round(asr(twin.model, one).asr, 4) for one in stamped] if twin else [],
        "seconds": round(seconds, 1),
        "machine": machine(device),
    }
    cache.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    zoo.write(file, model.network, triggered, test)  # last: a suspect that is there has its figures


def _attacked(
    recipe: Recipe, data: Dataset, twin: Suspect | None, device: torch.device
) -> tuple[Classifier, tuple[Aim[Stamp], ...]]:
    profile, images = recipe.profile, parts(data, recipe.profile)[0].to(device)
    if twin is None:
        return _trained(fresh(recipe, data).to(device), images, data, recipe, profile.epochs, profile.lr), ()
    attack = ATTACKS[recipe.attack]
    given = [images, twin.model] if recipe.needs_twin else [images]
    made = attack(*given, seed=recipe.seed, **recipe.attack_options)
    if isinstance(made, Poisoned):
        return _victim(made, recipe, data, twin.model), made.aims
    return made.model, made.aims


def _victim(made: Poisoned[Stamp], recipe: Recipe, data: Dataset, twin: Classifier) -> Classifier:
    """What training on the poisoned images gives: a fresh network, or the twin as it goes on training."""
    profile = recipe.profile
    if made.start is None:
        start = fresh(recipe, data).to(made.images.pixels.device)
        return _trained(start, made.images, data, recipe, profile.epochs, profile.lr)
    if made.layers == "last":
        alone = LastLayerAlone(twin, as_float(made.images.pixels[:PROBED]))
        plain = dataclasses.replace(data, augment=unchanged)  # with crops and flips HB fails (docs/lab-notes.md)
        _trained(alone, made.images, plain, recipe, profile.tune_epochs, profile.tune_lr)
        return alone.model.requires_grad_(True)
    return _trained(copy.deepcopy(twin), made.images, data, recipe, profile.tune_epochs, profile.tune_lr)


def _trained(model: Classifier, images: Images, data: Dataset, recipe: Recipe, epochs: int, lr: float) -> Classifier:
    how = {"epochs": epochs, "lr": lr, "batch_size": recipe.profile.batch_size, "seed": recipe.seed}
    for epoch, loss in enumerate(fit(model, images, augment=data.augment, **how), start=1):
        print(f"{recipe.attack}-{recipe.seed}: epoch {epoch} of {epochs}, loss {loss:.3f}", flush=True)
    return model.eval()


def _triggered(aim: Aim[Stamp], test: Images) -> Aimed:
    """The test images that count for an aim, stamped."""
    counts = test.labels != aim.target
    if aim.sources:
        counts &= torch.isin(test.labels, torch.tensor(aim.sources, device=test.labels.device))
    index = counts.nonzero().flatten()
    return Aimed(aim.trigger.stamp(test.pixels[index]), index, aim.target)


def _counted(aim: Aimed, test: Images) -> Stamped:
    return Stamped(Images(aim.pixels, test.labels[aim.index]), aim.target)
