"""What a reader should know before believing the numbers of a report. Pure: no model, no image, no randomness."""

from __future__ import annotations

from redeem.assessment import Assessment, NeuralCleanse
from redeem.report import Flag
from worker.algorithms.detectors.anomaly import FEWEST_FOR_MAD, SMALL_NORM
from worker.stages.detector_flags import of_detectors, others_ran
from worker.stages.judge import trigger_works

FEW_IMAGES = 100  # below this one image is worth a point of accuracy or more
GROWTH = 2.0  # another seed moves a norm by a fifth; purifying the example's suspect made it seven times as large


def flags(before: Assessment, after: Assessment) -> list[Flag]:
    """What a reader should know before believing the numbers."""
    found = []
    if before.asr is None:
        found.append(
            Flag(
                code="asr_not_measured",
                message="The attack success rate was not measured: no triggered images came with the job.",
                advice="If you know or suspect a trigger, send a bundle of stamped images under their true labels.",
            )
        )
    found.extend(_of_search(before, after))
    found.extend(_of_images(after))
    if before.asr is not None and not trigger_works(before.asr):
        found.append(
            Flag(
                code="trigger_does_not_work",
                message=f"On the suspect, the triggered images have an ASR of only {before.asr:.3f}.",
                advice="Either it has no backdoor, or not this trigger; check the target and the preprocessing.",
            )
        )
    if before.surrogate_asr is not None and not trigger_works(before.surrogate_asr):
        found.append(
            Flag(
                code="reversed_trigger_does_not_work",
                message=f"On the suspect, the reversed triggers have an ASR of only {before.surrogate_asr:.3f}.",
                advice="That they fail afterwards proves little. Send more clean images, or ask for more steps.",
            )
        )
    searched = {"the suspect": before.neural_cleanse, "the purified model": after.neural_cleanse}
    found.extend(_of_statistics({name: cleanse for name, cleanse in searched.items() if cleanse is not None}))
    if before.neural_cleanse is not None and after.neural_cleanse is not None:
        found.extend(_of_change(before.neural_cleanse, after.neural_cleanse))
    return [*found, *of_detectors(before, after)]


def _of_search(before: Assessment, after: Assessment) -> list[Flag]:
    """Where no trigger was searched for, or none was found."""
    if before.neural_cleanse is None and others_ran(before, after):
        return [
            Flag(
                code="neural_cleanse_not_run",
                message="Neural Cleanse was not run: no trigger was reversed, and the surrogate ASR was not measured.",
                advice="Ask for the detector neural_cleanse as well; the others do not count in a verdict.",
            )
        ]
    if before.neural_cleanse is None:
        return [
            Flag(
                code="detection_not_run",
                message="No detector was run, so nothing was searched for.",
                advice="Ask for the detector neural_cleanse.",
            )
        ]
    if not before.neural_cleanse.flagged:
        return [
            Flag(
                code="nc_inconclusive",
                message="Neural Cleanse flagged no label of the suspect. Its silence afterwards proves nothing.",
                advice="It misses large, blended and warped triggers. The detector universal_warp sees warps; "
                "triggered images would decide.",
            )
        ]
    return []


def _of_images(after: Assessment) -> list[Flag]:
    """Where there are too few images, or none of a class."""
    found = []
    if after.mpa_images < FEW_IMAGES:
        found.append(
            Flag(
                code="mpa_imprecise",
                message=f"MPA is of {after.mpa_images} images: one image is {1 / after.mpa_images:.3f}.",
                advice="Send more clean images for a finer figure.",
            )
        )
    if 0 < after.asr_images < FEW_IMAGES:
        found.append(
            Flag(
                code="asr_imprecise",
                message=f"ASR is of {after.asr_images} images: one image is {1 / after.asr_images:.3f}.",
                advice="Send more triggered images for a finer figure.",
            )
        )
    if any(share is None for share in after.mpa_per_class):
        found.append(
            Flag(
                code="classes_without_images",
                message="Some classes have no clean image in the part that is measured.",
                advice="Send clean images of every class; what is not there can neither be kept nor measured.",
            )
        )
    return found


def _of_statistics(searched: dict[str, NeuralCleanse]) -> list[Flag]:
    """Where the outlier test of Neural Cleanse stands on weak feet, by the name of the model."""
    found = []
    if any(len(cleanse.norms) < FEWEST_FOR_MAD for cleanse in searched.values()):
        found.append(
            Flag(
                code="nc_few_labels",
                message="There are too few labels for a median absolute deviation; the ratio of norms was used.",
                advice="A ratio has no p-value. Triggered images would decide.",
            )
        )
    flat = [name for name, cleanse in searched.items() if cleanse.mad == 0 and len(cleanse.norms) >= FEWEST_FOR_MAD]
    if flat:
        found.append(
            Flag(
                code="mad_zero",
                message=f"Half of the labels of {' and '.join(flat)} or more have the same norm, so the median "
                "absolute deviation is zero; the ratio of norms was used.",
                advice="Where it is the norm of a full mask the labels were not reached: ask for more steps.",
            )
        )
    small = [name for name, cleanse in searched.items() if cleanse.median_suspect]
    if small:
        found.append(
            Flag(
                code="nc_median_suspect",
                message=f"Half of the labels of {' and '.join(small)} or more have very small triggers. An outlier "
                "test takes the majority for benign, and here it may not be.",
                advice="Look at the norms themselves; every label with a small one may have a backdoor.",
            )
        )
    return found


def _of_change(before: NeuralCleanse, after: NeuralCleanse) -> list[Flag]:
    """Where a Neural Cleanse that finds nothing any more does not mean that the backdoor is gone."""
    found = []
    still_small = [label for label in before.flagged if after.norms[label] < GROWTH * before.norms[label]]
    if still_small:
        told = ", ".join(f"{label} ({before.norms[label]:.1f} to {after.norms[label]:.1f})" for label in still_small)
        found.append(
            Flag(
                code="nc_trigger_still_small",
                message=f"The reversed trigger of a label that was flagged has not even doubled in size: label {told}.",
                advice="The backdoor is probably still there. Purify for more epochs, or with another purifier.",
            )
        )
    scattered = [label for label in still_small if label not in after.flagged]
    if scattered and before.mad is not None and after.mad is not None and after.mad > before.mad:
        found.append(
            Flag(
                code="nc_index_fell_by_scatter",
                message=f"Label {', '.join(map(str, scattered))} is an outlier no more because the other norms scatter "
                f"more (MAD {before.mad:.1f} to {after.mad:.1f}), not because its own trigger grew.",
                advice="Do not take the lower anomaly index for a repair; look at the norms.",
            )
        )
    if before.median is not None:
        limit = SMALL_NORM * before.median
        fragile = [label for label, norm in enumerate(after.norms) if norm < limit <= before.norms[label]]
        if len(fragile) > 1:
            found.append(
                Flag(
                    code="nc_fragile_labels",
                    message=f"Labels {', '.join(map(str, fragile))} now have triggers below a quarter of the suspect's "
                    "median norm, and had none before.",
                    advice="Purification left weak decision boundaries: try a lower learning rate or fewer epochs.",
                )
            )
    return found
