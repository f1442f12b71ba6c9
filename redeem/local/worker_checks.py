"""What the worker of this machine finds, asked in a process of its own: the command line never imports torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redeem.checks import Check
from redeem.settings import child_environment

GIB = 2**30
ROOM = 2 * GIB  # of a GPU's memory: what a job on a small network takes
PROGRAM = """
import dataclasses, json, torch
from worker.stages import confinement, device
found = {"layers": dict(confinement.layers()), "gpus": [dataclasses.asdict(gpu) for gpu in device.gpus()]}
print(json.dumps(found | {"torch": torch.__version__, "cuda": torch.version.cuda}))
"""


def worker_checks() -> Iterator[Check]:
    """Of its sandbox and its device. A note where the worker is not installed."""
    if importlib.util.find_spec("torch") is None:
        yield Check("worker", "note", "torch is not installed", "Only a host with a worker needs it.")
        return
    asked = subprocess.run(  # noqa: S603  our own argv
        [sys.executable, "-c", PROGRAM],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        mend = "Install redeem[worker] again; torch and torchvision have to be of one release."
        yield Check("worker", "bad", f"it does not import: {last}", mend)
        return
    found = json.loads(asked.stdout)
    yield sandbox_check(found["layers"])
    yield from gpu_checks(found, has_driver=Path("/dev/nvidiactl").exists())


def sandbox_check(layers: dict[str, str]) -> Check:
    """What confines the process that reads uploads."""
    detail = ", ".join(f"{name} ({told})" for name, told in layers.items() if told)
    missing = [name for name, told in layers.items() if not told]
    if missing:
        mend = "Uploads are read behind fewer walls: run the worker on Linux 5.13 or newer, or in a container."
        return Check("sandbox", "note", f"{detail}; this system has no {' and no '.join(missing)}", mend)
    return Check("sandbox", "ok", detail)


def gpu_checks(found: dict[str, Any], has_driver: bool) -> Iterator[Check]:
    """One for each GPU that torch sees, or one that says that there is none."""
    with_torch = f"torch {found['torch']}" + (f", CUDA {found['cuda']}" if found["cuda"] else "")
    for number, gpu in enumerate(found["gpus"]):
        room = f"{gpu['free'] / GIB:.1f} of {gpu['total'] / GIB:.1f} GiB free"
        detail = f"{gpu['name']}, {room}; {with_torch}"
        if gpu["fault"]:
            mend = "Update its driver, or install a torch that was built for it; `nvidia-smi` tells who uses it."
            yield Check(f"gpu {number}", "bad", f"{detail}; {gpu['fault']}", mend)
        elif gpu["free"] < ROOM:
            yield Check(f"gpu {number}", "note", detail, "Others use it: `nvidia-smi` tells who.")
        else:
            yield Check(f"gpu {number}", "ok", detail)
    if found["gpus"]:
        return
    if has_driver:
        mend = "Update the driver, check CUDA_VISIBLE_DEVICES, or install a torch with CUDA. Jobs run on the CPU."
        yield Check("gpu", "note", f"there is an NVIDIA driver, and torch sees no GPU; {with_torch}", mend)
    else:
        mend = "Jobs run on the CPU: minutes instead of seconds for a small network."
        yield Check("gpu", "note", f"torch sees none; {with_torch}", mend)
