"""Claim: Neural Cleanse finds the same backdoor in a fraction of the time that the plain way takes.

    python benchmarks/neural_cleanse.py
    python benchmarks/neural_cleanse.py --device cuda

All ten labels of the example's suspect, the same images, steps, batch size and costs on both sides: Redeem's detector
as the service calls it, and `plain.py`, which takes one label after the other. A run of one, a run of the other, in
turns. Both have to accuse the label of the backdoor before all others, with a trigger of about the same size; the plain
side by the paper's rule, which may well accuse a second. About fifteen minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch
from safetensors.torch import load_file

from benchmarks.measuring import EXAMPLE, parser, print_table, read_example, seconds, spread, write_record
from benchmarks.plain import PlainNeuralCleanse, flagged
from worker.algorithms import architectures
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.stages.load import split_clean

TARGET = 0
NEAR = 2.5  # times the one norm that the other may be: over seeds, one side alone gives 3.5 to 8 pixels
LABELS = 10


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    images, suspect = read_images(arguments), read_suspect(arguments.device)
    plain = PlainNeuralCleanse(suspect, arguments.steps, arguments.batch_size, arguments.loader_workers)
    on_host = images.pixels.cpu(), images.labels.cpu()
    warm_up(suspect, images)

    taken: dict[str, list[float]] = {"ours": [], "plain": []}
    norms: dict[str, list[float]] = {}
    found: dict[str, list[int]] = {}

    def ours() -> None:
        result = DETECTORS["neural_cleanse"](
            suspect,
            images,
            num_classes=LABELS,
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        )
        norms["ours"], found["ours"] = result.triggers.norms.tolist(), result.anomaly.flagged

    def plain_way() -> None:
        torch.manual_seed(arguments.seed)
        norms["plain"] = plain.norms(on_host, LABELS)
        found["plain"] = flagged(norms["plain"])

    for _ in range(arguments.rounds):
        taken["ours"].append(seconds(arguments.device, ours))
        taken["plain"].append(seconds(arguments.device, plain_way))

    ratio = spread([p / o for o, p in zip(taken["ours"], taken["plain"], strict=True)])
    same = same_verdict(norms, found)
    write_record(
        arguments,
        __file__,
        images=len(images),
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        loader_workers=arguments.loader_workers,
        rows=[
            {"way": side, "seconds": spread(taken[side]), "flagged": found[side]}
            | {"norms": [round(norm, 1) for norm in norms[side]]}
            for side in taken
        ],
        ratio=ratio,
        same_verdict=same,
    )
    print_table(
        ("way", "seconds", "flagged", f"norm of label {TARGET}", "median norm"),
        *(
            (side, spread(taken[side])["median"], found[side], round(norms[side][TARGET], 1), median(norms[side]))
            for side in taken
        ),
        ("ratio", ratio["median"], "", "", ""),
    )
    if not same:
        print("The two ways do not find the same: the ratio says nothing.", file=sys.stderr)
        return 1
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, __file__)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--loader-workers", type=int, default=0, help="of the plain side; they start for every label")
    return options.parse_args(words)


def read_images(arguments: argparse.Namespace) -> Images:
    """What a job gives to Neural Cleanse: the parts of the clean bundle that training does not see."""
    clean = split_clean(read_example("clean.zip"), arguments.seed, arguments.device)
    parts = clean.held_out, clean.report
    return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def read_suspect(device: torch.device) -> Classifier:
    preprocessing = json.loads((EXAMPLE / "job.json").read_text())["model"]["preprocessing"]
    loaded = architectures.load("paper/resnet18", None, None, {}, load_file(EXAMPLE / "suspect.safetensors"))
    return Classifier(loaded.network, preprocessing["mean"], preprocessing["std"]).eval().to(device)


def warm_up(suspect: Classifier, images: Images) -> None:
    """Kernels are chosen and compiled at first use."""
    DETECTORS["neural_cleanse"](suspect, images, num_classes=LABELS, steps=2)
    PlainNeuralCleanse(suspect, steps=2).norms((images.pixels.cpu(), images.labels.cpu()), 1)


def same_verdict(norms: dict[str, list[float]], found: dict[str, list[int]]) -> bool:
    quotient = norms["ours"][TARGET] / norms["plain"][TARGET]
    return found["ours"][:1] == found["plain"][:1] == [TARGET] and 1 / NEAR <= quotient <= NEAR


def median(values: list[float]) -> float:
    return spread(values, 1)["median"]


if __name__ == "__main__":
    sys.exit(main())
