"""Claim: Neural Cleanse flags networks with a patch at their true label, and no benign one.

    python benchmarks/neural_cleanse_verdicts.py --train cifar10-train.npz --test cifar10-test.npz

Three of each: the example's suspect and its benign twin, and those of suspects.py. 300 clean test images that no
network was trained on, the defaults of the detector. Exits with 1 where a verdict is wrong. About a minute a network.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import command, read_network
from benchmarks.small_bundles import named
from benchmarks.suspects import Suspect, cifar10
from worker.algorithms.data import Images
from worker.algorithms.detectors.neural_cleanse import neural_cleanse
from worker.stages.device import environment

RECORD = Path(__file__).with_suffix(".json")
IMAGES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="cifar10-train.npz, 50,000 images")
    parser.add_argument("--test", type=Path, required=True, help="cifar10-test.npz, 10,000 images")
    arguments = parser.parse_args()
    train, _ = cifar10.read(arguments.train)
    test, _ = cifar10.read(arguments.test)
    images = test[torch.arange(IMAGES)]
    suspects = [named(name, train) for name in ("example", "patch-0", "patch-1", "none-0", "none-1")]
    twin = Suspect("example's benign twin", 0, read_network("benign"), None, 0)
    rows = [verdict(one, images) for one in [*suspects, twin]]
    record = {
        "command": command(__file__),
        "seed": 0,
        "images": IMAGES,
        "environment": environment(torch.device("cpu"), "").model_dump(exclude={"redeem"}),
        "rows": rows,
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(0 if all(row["right"] for row in rows) else 1)


def verdict(one: Suspect, images: Images) -> dict[str, Any]:
    found = neural_cleanse(one.model, images, num_classes=10, seed=0)
    expected = [one.target] if one.trigger else []
    row = {
        "network": f"{one.name}-{one.seed}",
        "expected": expected,
        "flagged": found.anomaly.flagged,
        "index": round(found.anomaly.index, 2),
        "p_value": None if found.anomaly.p_value is None else round(found.anomaly.p_value, 4),
        "norms": [round(norm, 1) for norm in found.triggers.norms.tolist()],
        "right": found.anomaly.flagged == expected,
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
