"""Claim: SAGE's defaults hold on bundles of 50 to 2,500 clean images, for backdoors of several kinds and for none.

    python benchmarks/small_bundles.py --train cifar10-train.npz --test cifar10-test.npz

Purifies the suspects of suspects.py and the example's, with bundles of each size drawn by seed from the first 2,500
test images and split as the service does it; MPA and ASR are of test images 3,000 to 9,999, which nothing else sees.
Each cell stands beside its control, β = 0. Cells that the record beside this file has already are not run again.
`--suspects`, `--sizes`, `--seeds` and `--betas` choose some; a cell takes about a minute on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import command, read_network
from benchmarks.suspects import NAMES, SEEDS, Suspect, asr, cifar10, suspect
from worker.algorithms.attacks.badnets import badnets
from worker.algorithms.data import Images
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.purifiers.sage import sage
from worker.stages.device import environment
from worker.stages.load import split_clean

RECORD = Path(__file__).with_suffix(".json")
DEVICE = torch.device("cpu")
SIZES = (50, 100, 200, 500, 1000, 2500)
BETAS = (300.0, 0.0)
Cell = tuple[str, int, int, float]


def main() -> None:
    arguments = parse()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"cells": []}
    done = {key(cell) for cell in record["cells"]}
    every = [
        (name, size, seed, beta)
        for size in arguments.sizes
        for seed in arguments.seeds
        for name in arguments.suspects
        for beta in arguments.betas
    ]
    test, _ = cifar10.read(arguments.test)
    train, _ = cifar10.read(arguments.train)
    suspects = {name: named(name, train) for name in arguments.suspects}
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        wanted = [cell for cell in every if cell not in done]
        for cell in pool.map(measure, [suspects[name] for name, *_ in wanted], [test] * len(wanted), wanted):
            print({name: value for name, value in cell.items() if name != "environment"}, flush=True)
            record["cells"].append(cell | {"command": command(__file__)})
            RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for line in table(record["cells"]):
        print(line)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="cifar10-train.npz, 50,000 images")
    parser.add_argument("--test", type=Path, required=True, help="cifar10-test.npz, 10,000 images")
    every = ["example", *(f"{name}-{seed}" for name in NAMES for seed in SEEDS)]
    parser.add_argument("--suspects", nargs="+", default=every, metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--betas", nargs="+", type=float, default=BETAS)
    return parser.parse_args()


def named(name: str, train: Images) -> Suspect:
    """`example`, or a kind and a seed of suspects.py."""
    if name != "example":
        kind, seed = name.split("-")
        return suspect(kind, int(seed), train)
    return Suspect(name, 0, read_network("suspect"), badnets(train, target=0, margin=3).trigger, 0)


def measure(one: Suspect, test: Images, cell: Cell) -> dict[str, Any]:
    name, size, seed, beta = cell
    chosen = torch.randperm(2500, generator=torch.Generator().manual_seed(seed))[:size]
    clean = split_clean(test[chosen], seed, DEVICE)
    purified = sage(one.model, clean.train, clean.held_out, beta=beta, seed=seed)
    unseen = test[torch.arange(3000, 10000)]
    figures = {
        f"{figure}_{when}": value
        for when, model in (("before", one.model), ("after", purified.model))
        for figure, value in (("mpa", mpa(model, unseen)), ("asr", asr(model, unseen, one)))
    }
    return {
        "suspect": name,
        "images": size,
        "seed": seed,
        "beta": beta,
        **figures,
        "epochs": len(purified.history),
        "chosen_epoch": purified.chosen_epoch,
        "environment": environment(DEVICE, "").model_dump(exclude={"redeem"}),
    }


def mpa(model: torch.nn.Module, images: Images) -> float:
    return round(accuracy(logits(model, images.pixels).argmax(1), images.labels), 4)


def key(cell: dict[str, Any]) -> Cell:
    return cell["suspect"], cell["images"], cell["seed"], cell["beta"]


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Medians over seeds, worst in brackets; SAGE beside its control."""
    lines = [
        "| suspect | images | MPA before | SAGE: MPA lost, ASR | β = 0: MPA lost, ASR |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, size in dict.fromkeys((cell["suspect"], cell["images"]) for cell in cells):
        of_both = {beta: [c for c in cells if key(c)[:2] == (name, size) and c["beta"] == beta] for beta in BETAS}
        told = " | ".join(_told(group) if group else "not run" for group in of_both.values())
        before = next(cell["mpa_before"] for cell in cells if key(cell)[:2] == (name, size))
        lines.append(f"| {name} | {size} | {before:.3f} | {told} |")
    return lines


def _told(group: list[dict[str, Any]]) -> str:
    lost = [cell["mpa_before"] - cell["mpa_after"] for cell in group]
    told = f"{statistics.median(lost):.3f} ({max(lost):.3f})"
    found = [cell["asr_after"] for cell in group if cell["asr_after"] is not None]
    return f"{told}, {statistics.median(found):.3f} ({max(found):.3f})" if found else told


if __name__ == "__main__":
    main()
