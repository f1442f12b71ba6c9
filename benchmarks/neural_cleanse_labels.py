"""Claim: the cost of Neural Cleanse grows more slowly than the number of labels.

    python benchmarks/neural_cleanse_labels.py
    python benchmarks/neural_cleanse_labels.py --device cuda

Redeem's detector on networks of 10, 43 and 100 classes: a ResNet-18 of width 16 each, trained for a short while on
synthetic images that it learns well (a class is a coarse pattern of colours, shifted, under noise), without a backdoor.
What a step costs does not depend on the weights; where the detector ends a label's search early, its end does, and
these figures are then no other network's. About fifteen minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch
import torch.nn.functional as F

from benchmarks.measuring import parser, print_table, seconds, write_record
from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.augment import crop
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.training import fit

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    rows = [measure(arguments, labels) for labels in sorted(arguments.labels)]
    exponent = growth(rows)
    write_record(
        arguments,
        __file__,
        width=arguments.width,
        images=arguments.images,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        rows=rows,
        exponent=exponent,
    )
    print_table(
        ("labels", "seconds", "seconds a label", "labels reached", "accuracy of the network"),
        *((row["labels"], row["seconds"], row["seconds_a_label"], row["reached"], row["accuracy"]) for row in rows),
    )
    print(f"seconds grow as labels to the power of {exponent}")
    return 0 if exponent < 1 else 1


def parse(words: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, __file__)
    options.add_argument("--labels", type=int, nargs="+", default=[10, 43, 100])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--images", type=int, default=300, help="for Neural Cleanse: as in a usual bundle")
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--training-images", type=int, default=2000)
    return options.parse_args(words)


def measure(arguments: argparse.Namespace, labels: int) -> dict[str, float]:
    model = trained(arguments, labels)
    images = coarse_patterns(arguments.images, labels, arguments.seed + 1).to(arguments.device)
    reached = torch.zeros(())

    def detect(steps: int) -> None:
        nonlocal reached
        result = DETECTORS["neural_cleanse"](
            model, images, num_classes=labels, steps=steps, batch_size=arguments.batch_size, seed=arguments.seed
        )
        reached = result.triggers.reached.sum()

    detect(1)  # kernels are chosen and compiled at first use
    taken = seconds(arguments.device, lambda: detect(arguments.steps))
    return {
        "labels": labels,
        "seconds": round(taken, 2),
        "seconds_a_label": round(taken / labels, 3),
        "reached": int(reached),
        "accuracy": round(accuracy(logits(model, images.pixels).argmax(1), images.labels), 3),
    }


def growth(rows: list[dict[str, float]]) -> float:
    """The slope between the first and the last row on two logarithmic axes: 1 is in proportion to the labels."""
    first, last = rows[0], rows[-1]
    return round(math.log(last["seconds"] / first["seconds"]) / math.log(last["labels"] / first["labels"]), 2)


def trained(arguments: argparse.Namespace, labels: int) -> Classifier:
    torch.manual_seed(arguments.seed)
    model = Classifier(resnet18(labels, 3, arguments.width), MEAN, STD).to(arguments.device)
    images = coarse_patterns(arguments.training_images, labels, arguments.seed).to(arguments.device)
    list(fit(model, images, augment=crop, epochs=4, batch_size=64, lr=0.05, seed=arguments.seed))
    return model.eval()


def coarse_patterns(count: int, labels: int, seed: int) -> Images:
    """Images (count, 3, 32, 32) of `labels` classes in equal shares: a 4×4 pattern of colours for each class, the same
    for every seed, up to 4 pixels away from its place, under noise of this seed."""
    patterns = torch.rand(labels, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 160 + 48
    coarse = F.interpolate(patterns, size=(32, 32), mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % labels
    noise = 40 * torch.randn(count, 3, 32, 32, generator=generator)
    pixels = (coarse[classes] + noise).clamp(0, 255).to(torch.uint8)
    return Images(crop(pixels, generator), classes)


if __name__ == "__main__":
    sys.exit(main())
