"""Run the purifier that the job names, on the parts of the clean bundle that it may see."""

from __future__ import annotations

from redeem.contract import MethodRequest
from worker.algorithms.architectures import dump
from worker.algorithms.purifiers import PURIFIERS
from worker.algorithms.training import Progress
from worker.stages.kept import Kept
from worker.stages.load import Inputs


def purify(inputs: Inputs, purifier: MethodRequest, *, seed: int, progress: Progress) -> Kept:
    """The purified weights under the file's own key names, shapes and dtypes; the history and the chosen epoch.

    A purifier gets the train and held-out parts, and nothing else: no trigger, no triggered image, no report part.
    """
    purified = PURIFIERS[purifier.name](
        inputs.suspect,
        inputs.clean.train,
        inputs.clean.held_out,
        seed=seed,
        progress=progress,
        **{name: value for name, value in purifier.options.items() if name != "preset"},
    )
    weights = dump(inputs.loaded, purified.model.get_submodule("network"))
    return Kept({"history": purified.history, "chosen_epoch": purified.chosen_epoch}, weights)
