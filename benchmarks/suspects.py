"""Suspects of four kinds on CIFAR-10, trained once and kept in benchmarks/cache: what the other benchmarks purify.

    python benchmarks/suspects.py --train cifar10-train.npz --test cifar10-test.npz

A patch (BadNets), a blended picture, a warp (WaNet), and none; three seeds each. ResNet-18 of width 8, 8 epochs, all
50,000 training images; an hour or so in all on two CPU cores. `figures.json` has the accuracy and the attack
success of each on the 10,000 test images, beside that of the benign network of the same seed on the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.measuring import EXAMPLE

sys.path.insert(0, str(EXAMPLE))  # for cifar10.py, which stands beside its user there
import cifar10

from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.attacks.badnets import badnets
from worker.algorithms.attacks.blended import blended
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.attacks.wanet import wanet
from worker.algorithms.augment import crop_and_flip
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.metrics import accuracy, attack_success, logits
from worker.algorithms.training import fit
from worker.algorithms.triggers import Stamp

CACHE = Path(__file__).parent / "cache"
WIDTH, EPOCHS, SEEDS = 8, 8, (0, 1, 2)

# Each seed has its own trigger, target and order. A warp of one pixel on average: the paper's quarter of a pixel takes
# a network of this size many more epochs to learn.
KINDS: dict[str, Callable[[Images, int], Poisoned[Stamp]]] = {
    "patch": lambda images, seed: badnets(images, target=target(seed), margin=3, seed=seed),
    "blended": lambda images, seed: blended(images, target=target(seed), seed=seed),
    "warped": lambda images, seed: wanet(images, target=target(seed), strength=2.0, seed=seed),
}
NAMES = ("none", *KINDS)


@dataclass(frozen=True)
class Suspect:
    """`trigger` is None for the benign network."""

    name: str
    seed: int
    model: Classifier
    trigger: Stamp | None
    target: int


def target(seed: int) -> int:
    return 3 * seed % 10


def main() -> None:
    arguments = parse()
    train, _ = cifar10.read(arguments.train)
    test, _ = cifar10.read(arguments.test)
    wanted = [(name, seed, train) for seed in SEEDS for name in NAMES]
    # A process a core: networks as narrow as these gain little from a second thread.
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(suspect, *zip(*wanted, strict=True)))
    figures = {}
    for seed in SEEDS:
        benign = suspect("none", seed, train)
        for name in NAMES:
            one = suspect(name, seed, train)
            figures[f"{name}-{seed}"] = measure(one, test) | (
                {"asr_of_benign": measure(benign, test, one)["asr"]} if one.trigger else {}
            )
            print(f"{name}-{seed}: {figures[f'{name}-{seed}']}", flush=True)
    (CACHE / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="cifar10-train.npz, 50,000 images")
    parser.add_argument("--test", type=Path, required=True, help="cifar10-test.npz, 10,000 images")
    return parser.parse_args()


def suspect(name: str, seed: int, train: Images) -> Suspect:
    """From the cache, or trained on `train`. The trigger is made again either way: it follows from the seed."""
    poisoned = KINDS[name](train, seed) if name in KINDS else None
    torch.manual_seed(seed)
    model = Classifier(resnet18(10, 3, WIDTH), cifar10.MEAN, cifar10.STD)
    file = CACHE / f"{name}-{seed}.safetensors"
    if file.exists():
        model.network.load_state_dict(load_file(file))
    else:
        images = poisoned.images if poisoned else train
        for epoch, loss in enumerate(fit(model, images, augment=crop_and_flip, epochs=EPOCHS, seed=seed), start=1):
            print(f"{name}-{seed}: epoch {epoch} of {EPOCHS}, loss {loss:.3f}", flush=True)
        CACHE.mkdir(exist_ok=True)
        save_file({key: value.contiguous() for key, value in model.network.state_dict().items()}, file)
    return Suspect(name, seed, model.eval(), poisoned.trigger if poisoned else None, target(seed))


def measure(one: Suspect, test: Images, attack: Suspect | None = None) -> dict[str, float | None]:
    """MPA, and ASR under the suspect's own trigger, or under that of another `attack`: the control."""
    attack = attack or one
    mpa = accuracy(logits(one.model, test.pixels).argmax(1), test.labels)
    return {"mpa": round(mpa, 4), "asr": asr(one.model, test, attack)}


def asr(model: torch.nn.Module, test: Images, attack: Suspect) -> float | None:
    if attack.trigger is None:
        return None
    stamped = Images(attack.trigger.stamp(test.pixels), test.labels)
    targets = torch.full_like(test.labels, attack.target)
    success = attack_success(logits(model, stamped.pixels).argmax(1), stamped, targets)
    assert success is not None
    return round(success.asr, 4)


if __name__ == "__main__":
    main()
