"""Auto: SAGE first, and the next of a short ladder where what can be known without a trigger says it was not enough.

Triggers are searched on the suspect: patches, faint patterns and warps (`suspected.py`). After each attempt three
things are measured (`evidence.py`): the accuracy lost on held-out clean images, the attack success of those triggers,
and that of what the same search finds in the purified model. An attempt that keeps both limits ends the climb;
where none does, the one that misses them least is given back. No choice looks at a real trigger: there is none here.

The search in a purified model takes longer than most purifiers. One that has missed a limit without it is not
searched, unless it may be the result.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.detectors.suspected import KINDS
from worker.algorithms.errors import AlgorithmError, UnfitOptions
from worker.algorithms.notes import Note
from worker.algorithms.purifiers.clp import clp
from worker.algorithms.purifiers.evidence import Evidence, evidence, searched, suspicion
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
# Of the work: before FIRST the suspect is searched, after LAST what may be the result; the climb is between.
FIRST, LAST = 0.1, 0.9
PURIFIED = 0.5  # of an attempt; then it is measured


@dataclass(frozen=True)
class Limits:
    """What an attempt has to keep, fractions."""

    drop: float
    residue: float

    def kept(self, found: Evidence) -> bool:
        return found.drop <= self.drop and found.residue <= self.residue

    def missed(self, found: Evidence) -> float:
        """By how many times the limits the figures exceed them, together; the figures decide where both are kept."""
        over = [max(0.0, found.drop / self.drop - 1), max(0.0, found.residue / self.residue - 1)]
        return sum(over) or (found.drop / self.drop + found.residue / self.residue) * 1e-3


@dataclass(eq=False)
class Attempt:
    """What a purifier of the ladder made, and what is known of it so far."""

    name: str
    purified: Purified
    found: Evidence


Search = Callable[[Attempt, Progress], None]
"""Looks for triggers of the attempt's own, and tells the attempt."""


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
    limits = Limits(max_drop, max_residue)
    before = suspicion(model, clean, held_out, steps=steps, seed=seed, progress=between(progress, 0, FIRST))

    def search(attempt: Attempt, told: Progress) -> None:
        network = attempt.purified.model
        attempt.found = searched(attempt.found, network, clean, held_out, steps=steps, seed=seed, progress=told)

    attempts: list[Attempt] = []
    refused: dict[str, AlgorithmError] = {}
    for number, name in enumerate(ladder):
        told = between(progress, *(FIRST + (LAST - FIRST) * share / len(ladder) for share in (number, number + 1)))
        given: dict[str, Any] = {"resume": resume, "checkpoint": checkpoint} if number == 0 else {}
        if name == "unlearning":
            given["known"] = before.reversed
        try:
            purified = RUNGS[name](model, clean, held_out, seed=seed, progress=between(told, 0, PURIFIED), **given)
        except AlgorithmError as error:  # a run that diverged, too few taps: the next one may do
            refused[name] = error
            continue
        attempts.append(Attempt(name, purified, evidence(purified.model, before, held_out)))
        if limits.kept(attempts[-1].found):
            search(attempts[-1], between(told, PURIFIED, 1))
        if limits.kept(attempts[-1].found):
            break
    if not attempts:
        raise next(iter(refused.values()))
    best = _least_missed(attempts, limits, search, between(progress, LAST, 1))
    progress(1.0)
    told_of = [*(_note(attempt, attempt is best) for attempt in attempts), *_refusals(refused)]
    return dataclasses.replace(best.purified, notes=[*best.purified.notes, *told_of])


def _least_missed(attempts: list[Attempt], limits: Limits, search: Search, progress: Progress) -> Attempt:
    """What would be the best if all had been searched. A search finds more of a backdoor or nothing, so only the best
    so far needs one."""
    done = 0.0
    while (best := min(attempts, key=lambda attempt: limits.missed(attempt.found))).found.own is None:
        search(best, between(progress, done, (done + 1) / 2))
        done = (done + 1) / 2
    return best


def _note(attempt: Attempt, chosen: bool) -> Note:
    found = attempt.found
    message = (
        f"{attempt.name}: lost {found.drop:.3f} of the held-out accuracy; the triggers found in the suspect have an "
        f"ASR of {found.surrogate_asr:.3f} now; {_of_its_own(found)}."
    )
    if chosen:
        return Note("auto_chosen", message, "This attempt is the result.")
    return Note("auto_attempt", message, "Another attempt was better; ask for this purifier by its name to have it.")


def _of_its_own(found: Evidence) -> str:
    if found.own is None:
        return "its own were not searched"
    if not found.own:
        return "it shows none of its own"
    labels = sorted({aim.target for aim in found.own})
    return f"its own, for label {', '.join(map(str, labels))}, {found.own_asr:.3f}"


def _refusals(refused: dict[str, AlgorithmError]) -> list[Note]:
    return [Note("auto_refused", f"{name} refused: {error}", error.hint) for name, error in refused.items()]
