"""Which number format the matrix products run in. Weights, optimiser states, attention maps and losses stay float32."""

from __future__ import annotations

import contextlib

import torch


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where the hardware multiplies it natively, float32 elsewhere.

    On a CPU with avx512_bf16, bfloat16 with channels-last more than doubles training (docs/performance notes in
    ARCHITECTURE.md); on a CPU without it the emulation is slower than float32. float16 is never used: squared
    activations summed over 512 channels overflow it.
    """
    if has_fast_bfloat16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
