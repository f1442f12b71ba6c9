"""What a reader should know of the detectors beside Neural Cleanse: what they found, and which have no findings.

Pure, as `flags.py` is. A verdict counts none of it (docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Callable

from redeem.assessment import Assessment, Missing, SentiNet, Strip
from redeem.report import Flag
from worker.algorithms.detectors.retuning import Retuning
from worker.algorithms.detectors.retuning import notes as notes_on_retuning
from worker.algorithms.detectors.universal import notes as notes_on_patterns
from worker.algorithms.detectors.weight_path import WeightPath
from worker.algorithms.detectors.weight_path import notes as notes_on_path
from worker.algorithms.metrics import wilson_interval
from worker.algorithms.notes import Note
from worker.stages.detect import AFTERWARDS, MODEL_ALONE, ON_TRIGGERED

MORE = 2.0  # times the share of harmless images: the line is a quantile of few clean images, and may be off by as much


def of_detectors(before: Assessment, after: Assessment) -> list[Flag]:
    """The flags of all detectors but Neural Cleanse."""
    found = _of_missing(before.missing, after.missing)
    for detector, told in TOLD.items():
        found.extend(_found(detector, told(before), told(after)))
    found.extend(_of_few_images(before, after))
    found.extend(_of_universal_perturbation(before, after))
    found.extend(_of_purification(after))
    return found


def others_ran(*assessments: Assessment) -> bool:
    """Whether a detector beside Neural Cleanse has findings."""
    names = [*MODEL_ALONE, *ON_TRIGGERED, *AFTERWARDS]
    return any(getattr(assessment, name) is not None for assessment in assessments for name in names)


def _of_missing(before: list[Missing], after: list[Missing]) -> list[Flag]:
    """One flag a detector and reason, though it be the same before and after."""
    found = []
    for missing in [*before, *(missing for missing in after if missing not in before)]:
        models = {"the suspect": before, "the purified model": after}
        refused = "refused " + " and ".join(model for model, others in models.items() if missing in others)
        what = "was not run" if missing.kind == "not_run" else refused
        found.append(
            Flag(
                code=f"{missing.detector}_{missing.kind}",
                message=f"The detector {missing.detector} {what}: {missing.reason}.",
                advice=missing.advice,
            )
        )
    return found


def _found(detector: str, before: str | None, after: str | None) -> list[Flag]:
    """What a detector found on the suspect and on the purified model, in words; None where it found nothing."""
    found = []
    if before:
        found.append(
            Flag(
                code=f"{detector}_found_before",
                message=f"On the suspect, {before}.",
                advice="Compare with what is found after purification. The verdict does not count it.",
            )
        )
    if after:
        found.append(
            Flag(
                code=f"{detector}_found_after",
                message=f"On the purified model, {after}.",
                advice="The backdoor may still be there: purify for more epochs, or with another purifier. The verdict "
                "does not count it.",
            )
        )
    return found


def _brain_stimulation(measured: Assessment) -> str | None:
    found = measured.brain_stimulation
    if found is None or not found.flagged:
        return None
    labels = ", ".join(map(str, found.flagged))
    return f"artificial brain stimulation found a small trigger that leads to label {labels} by driving one neuron"


def _universal_warp(measured: Assessment) -> str | None:
    found = measured.universal_warp
    if found is None or found.stands_out is None:
        return None
    share = found.success[found.stands_out] or 0
    return f"one faint warp leads {share:.0%} of the images to label {found.stands_out}, and to no other so many"


def _strip(measured: Assessment) -> str | None:
    return _many_flagged("STRIP", measured.strip)


def _sentinet(measured: Assessment) -> str | None:
    return _many_flagged("SentiNet", measured.sentinet)


def _many_flagged(name: str, found: Strip | SentiNet | None) -> str | None:
    """The lower end of the share's interval has to be well above what harmless images would have."""
    if found is None or wilson_interval(found.flagged_share, found.images)[0] <= MORE * found.false_rejection:
        return None
    return (
        f"{name} flags {found.flagged_share:.0%} of the triggered images, of harmless ones {found.false_rejection:.0%}"
    )


def _activation_clustering(measured: Assessment) -> str | None:
    found = measured.activation_clustering
    if found is None or not found.flagged_labels:
        return None
    labels = ", ".join(map(str, found.flagged_labels))
    return f"the images that are taken for label {labels} have a cluster of triggered ones in their features"


TOLD: dict[str, Callable[[Assessment], str | None]] = {
    "brain_stimulation": _brain_stimulation,
    "universal_warp": _universal_warp,
    "strip": _strip,
    "sentinet": _sentinet,
    "activation_clustering": _activation_clustering,
}


def _of_few_images(before: Assessment, after: Assessment) -> list[Flag]:
    clustered = {"the suspect": before.activation_clustering, "the purified model": after.activation_clustering}
    few = [name for name, found in clustered.items() if found and all(each is None for each in found.silhouettes)]
    if not few:
        return []
    return [
        Flag(
            code="activation_clustering_few_images",
            message=f"Activation clustering says nothing of {' and '.join(few)}: there are too few clean or triggered "
            "images that are taken for the same label.",
            advice="Send more images of both kinds; ten of each have to be taken for a label.",
        )
    ]


def _of_universal_perturbation(before: Assessment, after: Assessment) -> list[Flag]:
    """Where a label stands out after purification that something pointed to before, the detector's own notes say so."""
    old, new = before.universal_perturbation, after.universal_perturbation
    if old is None or new is None:
        return []
    suspected = _suspected(before)
    unsuspected = new.stands_out if new.stands_out not in suspected else None
    told = (_standing_out(old.success, old.stands_out), _standing_out(new.success, unsuspected))
    return [*_found("universal_perturbation", *told), *map(_flag, notes_on_patterns(old, new, suspected))]


def _standing_out(success: list[float | None], label: int | None) -> str | None:
    if label is None:
        return None
    return f"one faint pattern leads {success[label] or 0:.0%} of the images to label {label}, and to no other so many"


def _suspected(before: Assessment) -> list[int]:
    """The labels that any detector points to on the suspect."""
    labels = set(before.neural_cleanse.flagged if before.neural_cleanse else [])
    labels.update(before.brain_stimulation.flagged if before.brain_stimulation else [])
    labels.update(before.activation_clustering.flagged_labels if before.activation_clustering else [])
    easiest = [found.stands_out for found in (before.universal_perturbation, before.universal_warp) if found]
    return sorted(labels.union(label for label in easiest if label is not None))


def _of_purification(after: Assessment) -> list[Flag]:
    """What the purified model shows of how the backdoor went."""
    notes: list[Note] = []
    if after.retuning is not None:
        tried = after.retuning
        asrs = (tried.before, tried.after, tried.control_before, tried.control_after)
        notes.extend(notes_on_retuning(Retuning(*asrs)))
    if after.weight_path is not None:
        line = after.weight_path
        path = WeightPath(line.positions, line.losses, line.accuracies, line.surrogate_asrs, line.changes)
        notes.extend(notes_on_path(path))
    return [_flag(note) for note in notes]


def _flag(note: Note) -> Flag:
    return Flag(code=note.code, message=note.message, advice=note.advice)
