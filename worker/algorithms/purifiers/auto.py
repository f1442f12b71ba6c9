"""Auto: SAGE first, and the next of a short ladder where what can be known without a trigger says it was not enough.

Triggers are searched on the suspect: patches, faint patterns and warps (`suspected.py`). After each attempt three
things are measured (`evidence.py`): the accuracy lost on held-out clean images, the attack success of those triggers,
and that of what the same search finds in the purified model. An attempt that keeps both limits ends the climb;
where none does, the one that misses them least is given back. No choice looks at a real trigger: there is none here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.detectors.suspected import KINDS
from worker.algorithms.errors import AlgorithmError, UnfitOptions
from worker.algorithms.notes import Note
from worker.algorithms.purifiers.clp import clp
from worker.algorithms.purifiers.evidence import Evidence, evidence, suspicion
from worker.algorithms.purifiers.ft_sam import ft_sam
from worker.algorithms.purifiers.i_bau import i_bau
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.sage import sage
from worker.algorithms.purifiers.unlearning import unlearning
from worker.algorithms.training import Progress, between, ignore

RUNGS: dict[str, Callable[..., Purified]] = {
    "sage": sage,
    "clp": clp,
    "unlearning": functools.partial(unlearning, triggers=KINDS),
    "i_bau": i_bau,
    "ft_sam": ft_sam,
}
FIRST = 0.1  # of the work is the search on the suspect
PURIFIED = 0.5  # of an attempt; then it is measured


@dataclass(frozen=True)
class Attempt:
    """What a purifier of the ladder made, and what is known of it."""

    name: str
    purified: Purified
    found: Evidence


def auto(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    ladder: Sequence[str] = ("sage", "clp", "unlearning", "i_bau"),
    max_drop: float = 0.03,
    max_residue: float = 0.2,
    steps: int = 300,
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Purify `model` with the purifiers of `ladder`, one after the other, each from the suspect, until one is enough.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `max_drop` is what may be lost of the
    accuracy on `held_out`, `max_residue` how much of a backdoor may show (`Evidence.residue`), both fractions; `steps`
    are those of Neural Cleanse. The history and the epoch are the chosen attempt's; the notes tell of every attempt.

    Checkpoints are those of the first attempt: an interrupted run goes on there, or has its result at once, and makes
    later attempts anew. Raises `UnfitOptions` for a name that is no rung, and what the first purifier raised where
    every one of them refuses.
    """
    unknown = [name for name in ladder if name not in RUNGS]
    if unknown or not ladder:
        raise UnfitOptions(f"the ladder has no rung {', '.join(unknown) or 'at all'}; rungs are {', '.join(RUNGS)}")
    before = suspicion(model, clean, held_out, steps=steps, seed=seed, progress=between(progress, 0, FIRST))
    climbed = between(progress, FIRST, 1)
    attempts: list[Attempt] = []
    refused: dict[str, AlgorithmError] = {}
    for number, name in enumerate(ladder):
        kept = {"resume": resume, "checkpoint": checkpoint} if number == 0 else {}
        start, measured, end = (share / len(ladder) for share in (number, number + PURIFIED, number + 1))
        try:
            purified = RUNGS[name](
                model, clean, held_out, seed=seed, progress=between(climbed, start, measured), **kept
            )
        except AlgorithmError as error:  # a run that diverged, too few taps: the next one may do
            refused[name] = error
            continue
        told = between(climbed, measured, end)
        found = evidence(purified.model, before, clean, held_out, steps=steps, seed=seed, progress=told)
        attempts.append(Attempt(name, purified, found))
        if found.drop <= max_drop and found.residue <= max_residue:
            break
    if not attempts:
        raise next(iter(refused.values()))
    best = min(attempts, key=lambda attempt: _missed(attempt.found, max_drop, max_residue))
    progress(1.0)
    told_of = [*(_note(attempt, attempt is best) for attempt in attempts), *_refusals(refused)]
    return dataclasses.replace(best.purified, notes=[*best.purified.notes, *told_of])


def _missed(found: Evidence, max_drop: float, max_residue: float) -> float:
    """By how many times the limits the two figures exceed them, together; the figures decide where both are kept."""
    over = [max(0.0, found.drop / max_drop - 1), max(0.0, found.residue / max_residue - 1)]
    return sum(over) or (found.drop / max_drop + found.residue / max_residue) * 1e-3


def _note(attempt: Attempt, chosen: bool) -> Note:
    found = attempt.found
    labels = ", ".join(map(str, found.flagged))
    own = f"its own, for label {labels}, {found.flagged_asr:.3f}" if labels else "it shows none of its own"
    message = (
        f"{attempt.name}: lost {found.drop:.3f} of the held-out accuracy; the triggers found in the suspect have an "
        f"ASR of {found.surrogate_asr:.3f} now; {own}."
    )
    if chosen:
        return Note("auto_chosen", message, "This attempt is the result.")
    return Note("auto_attempt", message, "Another attempt was better; ask for this purifier by its name to have it.")


def _refusals(refused: dict[str, AlgorithmError]) -> list[Note]:
    return [Note("auto_refused", f"{name} refused: {error}", error.hint) for name, error in refused.items()]
