"""What to do where the memory does not hold a batch: half of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

SMALLEST_BATCH = 8  # images, to train with: of fewer, batch norms know too little


def out_of_memory(error: BaseException) -> bool:
    # On a CPU torch has no exception of its own for it.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def halving(run: Callable[[int], T], size: int, *, smallest: int = 1) -> tuple[T, int]:
    """What `run` gives for a batch of `size`, or where the memory runs out of half that, and half that again; and which
    size it was. Below the `smallest` the error is raised."""
    while True:
        try:
            return run(size), size
        except Exception as error:
            if not out_of_memory(error) or size // 2 < smallest:
                raise
        size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside of the handler: its traceback holds what is to be freed
