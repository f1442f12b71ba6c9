"""Which number format the matrix products run in. Weights, optimiser states, attention maps and losses stay float32."""

from __future__ import annotations

import contextlib
import functools
import math
import time

import torch
import torch.nn.functional as F

GAIN = 1.2  # times as fast as float32 that bfloat16 has to be: less is not worth its rounding


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where the hardware multiplies it clearly faster, float32 elsewhere.

    float16 is never used: squared activations summed over 512 channels overflow it.
    """
    if has_fast_bfloat16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def has_fast_bfloat16(device: torch.device) -> bool:
    """By the generation of a GPU, by a short probe on a CPU. What a CPU says of itself does not tell: of two with
    avx512_bf16, one trained 2.4 times as fast in bfloat16 and the other 0.7 times (docs/performance.md)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _bfloat16_gain_on_cpu() >= GAIN


@functools.cache
def _bfloat16_gain_on_cpu() -> float:
    """How many times as fast a convolution runs in bfloat16 as in float32: once a process, in a fifth of a second.

    One thread's own processor time, the best of several runs in turns: what else the machine does is not counted, so
    that a job that goes on in another process finds the same format. The two kinds of CPU are far apart (0.5 and 2).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
        for _ in range(7):
            for dtype in seconds:
                seconds[dtype] = min(seconds[dtype], _convolve(dtype))
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]


@torch.no_grad()
def _convolve(dtype: torch.dtype) -> float:
    """Seconds of a 3×3 convolution as in the second stage of a small ResNet, on 4 images: 0.3 GFLOP."""
    x = torch.ones(4, 128, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(128, 128, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    F.conv2d(x, weight, padding=1)  # the first call chooses and compiles a kernel
    started = time.thread_time()
    F.conv2d(x, weight, padding=1)
    return time.thread_time() - started
