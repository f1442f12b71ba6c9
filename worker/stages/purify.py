"""Run the purifier that the job names, on the parts of the clean bundle that it may see."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import structlog
import torch

from redeem.contract import MethodRequest
from worker.algorithms.architectures import dump
from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.notes import Note
from worker.algorithms.purifiers import PURIFIERS, Purified
from worker.algorithms.training import Progress
from worker.stages.kept import Kept
from worker.stages.load import Inputs

log = structlog.get_logger()

SMALLEST_BATCH = 8
ADVICE = "Another batch size is another training: choose it yourself, or a worker with more memory, to compare runs."


def purify(
    inputs: Inputs,
    purifier: MethodRequest,
    *,
    seed: int,
    progress: Progress,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Kept:
    """The purified weights under the file's own key names, shapes and dtypes; the facts are those of `PurifierSummary`,
    and `notes`.

    A purifier gets the train and held-out parts, and nothing else: no trigger, no triggered image, no report part.
    """
    purified, notes = _within_memory(
        purifier,
        lambda options, start: PURIFIERS[purifier.name](
            inputs.suspect,
            inputs.clean.train,
            inputs.clean.held_out,
            seed=seed,
            progress=progress,
            resume=start,
            checkpoint=checkpoint,
            **options,
        ),
        resume,
    )
    facts = {
        "history": purified.history,
        "chosen_epoch": purified.chosen_epoch,
        "taps": [{**dataclasses.asdict(tap), "name": tap.name.removeprefix("network.")} for tap in purified.taps],
        "notes": [dataclasses.asdict(note) for note in [*notes, *purified.notes]],
    }
    return Kept(facts, dump(inputs.loaded, purified.model.get_submodule("network")))


def _within_memory(
    purifier: MethodRequest, purify: Callable[[dict[str, Any], Checkpoint | None], Purified], resume: Checkpoint | None
) -> tuple[Purified, list[Note]]:
    """With half the batch, from the start, where the memory does not hold the whole one."""
    options = {name: value for name, value in purifier.options.items() if name != "preset"}
    notes: list[Note] = []
    while True:
        try:
            return purify(options, resume), notes
        except Exception as error:
            size = options.get("batch_size", 0) // 2
            if not out_of_memory(error) or size < SMALLEST_BATCH:
                raise
            log.warning("out of memory, trying half the batch", batch_size=size)
        options, resume = options | {"batch_size": size}, None
        notes = [Note("smaller_batch", f"The memory held batches of {size} images and no larger ones.", ADVICE)]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside of the handler: its traceback holds what is to be freed


def out_of_memory(error: Exception) -> bool:
    # On a CPU torch has no exception of its own for it.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
