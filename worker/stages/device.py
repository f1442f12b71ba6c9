"""The device that a job runs on, and how the report names it."""

from __future__ import annotations

import platform

import torch

from redeem import contract
from worker.algorithms.precision import has_fast_bfloat16
from worker.stages.confinement import layers


def pick() -> torch.device:
    """The first GPU where there is one. A worker is given its GPU by CUDA_VISIBLE_DEVICES before it starts."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def peak_memory() -> dict[str, int]:
    """For a log line: the most bytes that this process had allocated on its GPU. Nothing where there is none."""
    return {"gpu_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {}


def environment(device: torch.device, version: str) -> contract.Environment:
    """What a number in a report depends on besides inputs and seed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"
    return contract.Environment(
        redeem=version,
        torch=torch.__version__,
        device=name,
        threads=torch.get_num_threads(),
        number_format="bfloat16" if has_fast_bfloat16(device) else "float32",
        sandbox=[name for name, told in layers().items() if told],
    )
