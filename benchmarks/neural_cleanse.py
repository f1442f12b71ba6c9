"""Claim: Neural Cleanse finds the same backdoor in a fraction of the time that the plain way takes.

    python benchmarks/neural_cleanse.py
    python benchmarks/neural_cleanse.py --device cuda

All ten labels of the example's suspect, the same images, steps and costs on both sides: Redeem's detector as the
service calls it, and `plain.py`, which takes one label after the other and, as the authors do, 32 images a step.
Redeem's default is half as many, which finds the same (docs/lab-notes.md); a third row has it with as many as the plain
side. In turns. All have to accuse the label of the backdoor before all others, with a trigger of about the same size;
the plain side by the paper's rule, which may well accuse a second. About fifteen minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks.measuring import parser, print_table, read_example, read_network, seconds, spread, write_record
from benchmarks.plain import PlainNeuralCleanse, flagged
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.stages.assess import for_triggers
from worker.stages.load import split_clean

TARGET = 0
NEAR = 2.5  # times the one norm that the other may be: over seeds, one side alone gives 3.5 to 8 pixels
LABELS = 10


class Found(NamedTuple):
    """Each label's norm, and the labels accused, the worst first."""

    norms: list[float]
    flagged: list[int]


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    images, suspect = read_images(arguments), read_network("suspect").to(arguments.device)
    plain = PlainNeuralCleanse(suspect, arguments.steps, arguments.plain_batch_size, arguments.loader_workers)
    on_host = images.pixels.cpu(), images.labels.cpu()
    warm_up(suspect, images)

    def ours(batch_size: int) -> Found:
        result = DETECTORS["neural_cleanse"](
            suspect, images, num_classes=LABELS, steps=arguments.steps, batch_size=batch_size, seed=arguments.seed
        )
        return Found(result.triggers.norms.tolist(), result.anomaly.flagged)

    def plain_way() -> Found:
        torch.manual_seed(arguments.seed)
        norms = plain.norms(on_host, LABELS)
        return Found(norms, flagged(norms))

    ways: dict[str, Callable[[], Found]] = {
        "ours": lambda: ours(arguments.batch_size),
        "ours, images of plain": lambda: ours(arguments.plain_batch_size),
        "plain": plain_way,
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Found] = {}
    for _ in range(arguments.rounds):
        for way, search in ways.items():
            taken[way].append(seconds(arguments.device, lambda: found.update({way: search()})))  # noqa: B023

    ratios = {way: spread([p / o for o, p in zip(times, taken["plain"], strict=True)]) for way, times in taken.items()}
    same = all(same_verdict(found[way], found["plain"]) for way in ways)
    write_record(
        arguments,
        __file__,
        images=len(images),
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        plain_batch_size=arguments.plain_batch_size,
        loader_workers=arguments.loader_workers,
        rows=[
            {"way": way, "seconds": spread(taken[way]), "ratio": ratios[way], "flagged": found[way].flagged}
            | {"norms": [round(norm, 1) for norm in found[way].norms]}
            for way in ways
        ],
        same_verdict=same,
    )
    print_table(
        ("way", "seconds", "times as fast as plain", "flagged", f"norm of label {TARGET}", "median norm"),
        *(_row(way, spread(taken[way])["median"], ratios[way]["median"], found[way]) for way in ways),
    )
    if not same:
        print("The ways do not find the same: the ratio says nothing.", file=sys.stderr)
        return 1
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, __file__)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--plain-batch-size", type=int, default=32)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--loader-workers", type=int, default=0, help="of the plain side; they start for every label")
    return options.parse_args(words)


def read_images(arguments: argparse.Namespace) -> Images:
    """What a job gives to Neural Cleanse."""
    return for_triggers(split_clean(read_example("clean.zip"), arguments.seed, arguments.device))[0]


def warm_up(suspect: Classifier, images: Images) -> None:
    """Kernels are chosen and compiled at first use."""
    DETECTORS["neural_cleanse"](suspect, images, num_classes=LABELS, steps=2)
    PlainNeuralCleanse(suspect, steps=2).norms((images.pixels.cpu(), images.labels.cpu()), 1)


def _row(way: str, taken: float, ratio: float, found: Found) -> tuple[object, ...]:
    norms = round(found.norms[TARGET], 1), spread(found.norms, 1)["median"]
    return way, taken, ratio, found.flagged, *norms


def same_verdict(one: Found, other: Found) -> bool:
    quotient = one.norms[TARGET] / other.norms[TARGET]
    return one.flagged[:1] == other.flagged[:1] == [TARGET] and 1 / NEAR <= quotient <= NEAR


if __name__ == "__main__":
    sys.exit(main())
