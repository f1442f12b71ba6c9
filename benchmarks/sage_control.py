"""Claim: at the same epochs, the attention distances are what removes the backdoor, not the fine-tuning around them.

    python benchmarks/sage_control.py

Runs SAGE on the example's suspect as the service does, and the same run with β = 0; prints MPA and ASR of both side by
side, and writes the record beside this file. MPA is of the clean bundle's report part, ASR of the triggered bundle.
About three minutes on two CPU cores.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.measuring import command, read_example, read_network
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.metrics import accuracy, attack_success, logits
from worker.algorithms.purifiers.sage import sage
from worker.stages.device import environment
from worker.stages.load import CleanParts, split_clean

RECORD = Path(__file__).with_suffix(".json")
EPOCHS = (10, 28)  # of a run each, with its own cosine: 110 and 308 steps
SEED = 0


def main() -> None:
    suspect = read_network("suspect")
    clean = split_clean(read_example("clean.zip"), SEED, torch.device("cpu"))
    triggered = read_example("triggered.zip")

    rows = [measure("suspect", 0, suspect, clean, triggered)]
    for epochs in EPOCHS:
        for name, beta in (("SAGE, β = 300", 300.0), ("control, β = 0", 0.0)):
            model = sage(suspect, clean.train, clean.held_out, beta=beta, epochs=epochs, choose="last", seed=SEED).model
            rows.append(measure(name, epochs, model, clean, triggered))
    record = {
        "command": command(__file__),
        "seed": SEED,
        "environment": environment(torch.device("cpu"), "").model_dump(exclude={"redeem"}),
        "rows": rows,
    }
    RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def measure(name: str, epochs: int, model: Classifier, clean: CleanParts, triggered: Images) -> dict[str, object]:
    mpa = accuracy(logits(model, clean.report.pixels).argmax(1), clean.report.labels)
    targets = torch.zeros_like(triggered.labels)
    success = attack_success(logits(model, triggered.pixels).argmax(1), triggered, targets)
    assert success is not None
    print(f"{name:16} epoch {epochs:2}   MPA {mpa:.3f}   ASR {success.asr:.3f}", flush=True)
    return {"run": name, "epochs": epochs, "mpa": round(mpa, 4), "asr": round(success.asr, 4)}


if __name__ == "__main__":
    main()
