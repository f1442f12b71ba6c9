"""Run the purifier that the job names, on the parts of the clean bundle that it may see."""

from __future__ import annotations

import dataclasses

from redeem.contract import MethodRequest
from worker.algorithms.architectures import dump
from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.purifiers import PURIFIERS
from worker.algorithms.training import Progress
from worker.stages.kept import Kept
from worker.stages.load import Inputs


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
    purified = PURIFIERS[purifier.name](
        inputs.suspect,
        inputs.clean.train,
        inputs.clean.held_out,
        seed=seed,
        progress=progress,
        resume=resume,
        checkpoint=checkpoint,
        **{name: value for name, value in purifier.options.items() if name != "preset"},
    )
    facts = {
        "history": purified.history,
        "chosen_epoch": purified.chosen_epoch,
        "taps": [{**dataclasses.asdict(tap), "name": tap.name.removeprefix("network.")} for tap in purified.taps],
        "notes": [dataclasses.asdict(note) for note in purified.notes],
    }
    return Kept(facts, dump(inputs.loaded, purified.model.get_submodule("network")))
