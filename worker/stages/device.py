"""The device that a job runs on, and how the report names it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from redeem import report
from worker.algorithms.precision import has_fast_bfloat16
from worker.stages.confinement import layers


def pick() -> torch.device:
    """The first GPU where there is one. A worker is given its GPU by CUDA_VISIBLE_DEVICES before it starts."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def peak_memory() -> dict[str, int]:
    """For a log line: the most bytes that this process had allocated on its GPU. Nothing where there is none."""
    return {"gpu_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {}


@dataclass(frozen=True)
class Gpu:
    name: str
    free: int
    total: int
    """Bytes."""
    fault: str = ""
    """Why it does not compute."""


def gpus() -> list[Gpu]:
    """Those that torch sees, each tried with a small product. `pick` takes the first."""
    return [_tried(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]


def _tried(device: torch.device) -> Gpu:
    name, free, total = torch.cuda.get_device_name(device), 0, 0
    try:
        free, total = torch.cuda.mem_get_info(device)
        ones = torch.ones(64, 64, device=device)
        return Gpu(name, free, total, "" if (ones @ ones).sum().item() == 64**3 else "it computes wrongly")
    except RuntimeError as error:  # no kernel for it, no memory left, a mode that lets one process in
        return Gpu(name, free, total, str(error).strip().partition("\n")[0])


def environment(device: torch.device, version: str) -> report.Environment:
    """What a number in a report depends on besides inputs and seed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"
    return report.Environment(
        redeem=version,
        torch=torch.__version__,
        device=name,
        threads=torch.get_num_threads(),
        number_format="bfloat16" if has_fast_bfloat16(device) else "float32",
        sandbox=[name for name, told in layers().items() if told],
    )
