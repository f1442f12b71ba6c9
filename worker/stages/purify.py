"""Run the purifier that the job names, on the parts of the clean bundle that it may see."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import structlog

from redeem.contract import MethodRequest
from worker.algorithms.architectures import dump
from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.notes import Note
from worker.algorithms.out_of_memory import SMALLEST_BATCH, halving
from worker.algorithms.purifiers import PURIFIERS, Purified
from worker.algorithms.training import Progress
from worker.stages.kept import Kept
from worker.stages.load import Inputs

log = structlog.get_logger()

BATCH = "batch_size"
"""Among the facts of a checkpoint: images in a batch."""
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
        lambda options, start, keep: PURIFIERS[purifier.name](
            inputs.suspect,
            inputs.clean.train,
            inputs.clean.held_out,
            seed=seed,
            progress=progress,
            resume=start,
            checkpoint=keep,
            **options,
        ),
        resume,
        checkpoint,
    )
    facts = {
        "history": purified.history,
        "chosen_epoch": purified.chosen_epoch,
        "taps": [{**dataclasses.asdict(tap), "name": tap.name.removeprefix("network.")} for tap in purified.taps],
        "notes": [dataclasses.asdict(note) for note in [*notes, *purified.notes]],
    }
    return Kept(facts, dump(inputs.loaded, purified.model.get_submodule("network")))


def _within_memory(
    purifier: MethodRequest,
    purify: Callable[[dict[str, Any], Checkpoint | None, Keep], Purified],
    resume: Checkpoint | None,
    checkpoint: Keep,
) -> tuple[Purified, list[Note]]:
    """With half the batch, from the start, where the memory does not hold the whole one. A checkpoint is gone on from
    with the batch that it was made with: with another one its epochs would have been others."""
    options = {name: value for name, value in purifier.options.items() if name != "preset"}
    whole = options.get("batch_size")
    if whole is None:
        return purify(options, resume, checkpoint), []
    begun = resume.facts.get(BATCH, whole) if resume else whole

    def tried(size: int) -> Purified:
        if size < begun:
            log.warning("out of memory, trying half the batch", batch_size=size)

        def keep(make: Callable[[], Checkpoint]) -> None:
            checkpoint(lambda: _of_batch(make(), size))

        return purify(options | {"batch_size": size}, resume if size == begun else None, keep)

    purified, size = halving(tried, begun, smallest=SMALLEST_BATCH)
    smaller = Note("smaller_batch", f"The memory held batches of {size} images and no larger ones.", ADVICE)
    return purified, [smaller] if size < whole else []


def _of_batch(checkpoint: Checkpoint, size: int) -> Checkpoint:
    return Checkpoint(checkpoint.facts | {BATCH: size}, checkpoint.tensors)
