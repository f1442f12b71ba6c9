"""How far a purification has come, kept while it runs: a job whose worker died goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import structlog
from obstore.store import ObjectStore

from redeem.report import Artifact
from service.store import remove
from worker.algorithms.checkpoint import Checkpoint, Keep
from worker.stages.errors import StoreDamaged
from worker.stages.kept import Kept, read_kept, write_kept

CHECKPOINT = "purify.checkpoint"

log = structlog.get_logger()


def keeping(store: ObjectStore, every: timedelta, record: Callable[[Artifact], str | None]) -> Keep:
    """Writes a checkpoint to the store, not more often than `every`, and has it recorded.

    `record` names it in the database in place of the one before, and gives the hash of that one's blob where nobody
    needs it any more: it is removed, since a checkpoint is several times as large as the weights.
    """
    written = time.monotonic()

    def keep(make: Callable[[], Checkpoint]) -> None:
        nonlocal written
        if time.monotonic() - written < every.total_seconds():
            return
        made = make()
        superseded = record(write_kept(store, CHECKPOINT, Kept(made.facts, made.tensors)))
        if superseded is not None:
            remove(store, superseded)
        written = time.monotonic()

    return keep


def read_checkpoint(store: ObjectStore, sha256: str | None) -> Checkpoint | None:
    """The checkpoint of an earlier attempt. One that is gone or altered is none: the purification begins anew."""
    if sha256 is None:
        return None
    try:
        kept = read_kept(store, sha256)
    except StoreDamaged as error:
        log.warning("checkpoint unreadable", error=str(error))
        return None
    return Checkpoint(kept.facts, kept.tensors)
