"""What the benchmarks of speed share: the machine's own rate, counted work, medians, and the record beside a script."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from worker.algorithms import architectures
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.precision import has_fast_bfloat16
from worker.stages.bundle import read_bundle
from worker.stages.device import environment

EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10-badnets"
PRODUCTS = 10


def parser(description: str | None, script: str) -> argparse.ArgumentParser:
    """The options of every benchmark. A record of a GPU lies beside that of a CPU, not over it."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--record", type=Path, help=f"by default {Path(script).stem}.json, or -cuda.json, beside it")
    return options


def read_example(name: str) -> Images:
    """A bundle of the example: real CIFAR-10 test images."""
    return read_bundle(EXAMPLE / name, size=(32, 32), channels="RGB", num_classes=10)


def read_network(name: str) -> Classifier:
    """The example's `suspect` or its `benign` twin, with its normalisation."""
    preprocessing = json.loads((EXAMPLE / "job.json").read_text())["model"]["preprocessing"]
    loaded = architectures.load("paper/resnet18", None, None, {}, load_file(EXAMPLE / f"{name}.safetensors"))
    return Classifier(loaded.network, preprocessing["mean"], preprocessing["std"]).eval()


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    started = clock(device)
    work()
    return clock(device) - started


def matrix_rate(device: torch.device, size: int | None = None) -> float:
    """FLOP/s of a product of two square matrices in the number format that the algorithms choose on this device: the
    best of `PRODUCTS`, a multiplication and an addition counted as two. `size` is 2048 on a CPU, 8192 on a GPU."""
    size = size or (8192 if device.type == "cuda" else 2048)
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    matrix @ matrix
    return 2 * size**3 / min(seconds(device, lambda: matrix @ matrix) for _ in range(PRODUCTS))


def counted_flops(work: Callable[[], object]) -> int:
    """FLOPs of the convolutions and matrix products in `work`, forward and backward, by their shapes."""
    has_fast_bfloat16(torch.device("cpu"))  # probes once a process, which is no part of the work
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, least and greatest."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "greatest": round(max(values), digits),
    }


def answers(taken: Sequence[float], seconds: float) -> dict[str, float]:
    """Milliseconds of an answer, of those that took so many seconds each; and how many there were a second."""
    cuts = statistics.quantiles(taken, n=100)
    return {
        "p50": round(1000 * cuts[49], 1),
        "p99": round(1000 * cuts[98], 1),
        "per_second": round(len(taken) / seconds, 1),
    }


def machine(device: torch.device) -> str:
    """`environment` says the architecture only: here is the model, and how many cores there are."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def command(script: str) -> str:
    """What was typed to start `script`; files by their names alone, and of addresses, which hold passwords, that."""
    told = [word for word in sys.argv[1:] if Path(sys.argv[0]).name == Path(script).name]
    words = ("URL" if "://" in word else Path(word).name for word in told)
    return " ".join(["python", f"benchmarks/{Path(script).name}", *words])


def write_record(arguments: argparse.Namespace, script: str, **measured: object) -> None:
    """The record of one run, beside its script."""
    device = arguments.device
    beside = Path(script).with_name(Path(script).stem + ("-cuda" if device.type == "cuda" else "") + ".json")
    record: dict[str, Any] = {
        "command": command(script),
        "date": datetime.now(UTC).date().isoformat(),
        "seed": arguments.seed,
        "machine": machine(device),
        "environment": environment(device, "").model_dump(exclude={"redeem"}),
        **measured,
    }
    (arguments.record or beside).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def print_table(heads: Iterable[str], *rows: Iterable[object]) -> None:
    """The rows as docs/performance.md has them."""
    heads = list(heads)
    for row in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # only Linux tells
        return []
