"""What a reader should know before believing the numbers of a report. Pure: no model, no image, no randomness."""

from __future__ import annotations

from redeem.contract import Assessment, Flag

FEW_IMAGES = 100  # below this one image is worth a point of accuracy or more


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
    if before.neural_cleanse is None:
        found.append(
            Flag(
                code="detection_not_run",
                message="No detector was run, so nothing was searched for.",
                advice="Ask for the detector neural_cleanse.",
            )
        )
    elif not before.neural_cleanse.flagged:
        found.append(
            Flag(
                code="nc_inconclusive",
                message="Neural Cleanse flagged no label of the suspect. Its silence afterwards proves nothing.",
                advice="It misses large, blended and warped triggers; triggered images would decide.",
            )
        )
    if after.mpa_images < FEW_IMAGES:
        found.append(
            Flag(
                code="mpa_imprecise",
                message=f"MPA is of {after.mpa_images} images: one image is {1 / after.mpa_images:.3f}.",
                advice="Send more clean images for a finer figure.",
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
    if before.asr is not None and before.asr < 0.5:
        found.append(
            Flag(
                code="trigger_does_not_work",
                message=f"On the suspect, the triggered images have an ASR of only {before.asr:.3f}.",
                advice="Either it has no backdoor, or not this trigger; check the target and the preprocessing.",
            )
        )
    return found
