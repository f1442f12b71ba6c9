"""Flags and the verdict, from two assessments and the job's policy. Pure: no model, no image, no randomness."""

from __future__ import annotations

from redeem.contract import Assessment, Flag, Outcome, Policy, Verdict

FEW_IMAGES = 100  # below this one image is worth a point of accuracy or more
ROUNDING = 1e-6  # figures are float32 means: 20 of 100 images is a little more than 0.2, and still "at most 0.2"


def judge(before: Assessment, after: Assessment, policy: Policy) -> Verdict:
    """`fail` where a limit is broken; `inconclusive` where nothing could show that a backdoor is gone; else `pass`.

    What can show it: an ASR on triggered images, or a label that Neural Cleanse flagged on the suspect and whose
    reversed trigger (surrogate ASR) works no more. A Neural Cleanse that found nothing on the suspect says nothing
    about the purified model: it is blind to many triggers.
    """
    broken = _broken_limits(before, after, policy)
    if broken:
        return Verdict(outcome=Outcome.failed, reasons=broken, policy=policy)
    if after.asr is None and after.surrogate_asr is None:
        reason = (
            "neither an attack success rate (no triggered images) nor a surrogate one (no label of the suspect was "
            "flagged) could be measured, so nothing shows whether there was a backdoor or whether it is gone"
        )
        return Verdict(outcome=Outcome.inconclusive, reasons=[reason], policy=policy)
    return Verdict(outcome=Outcome.passed, reasons=_kept_limits(before, after), policy=policy)


def _broken_limits(before: Assessment, after: Assessment, policy: Policy) -> list[str]:
    reasons = []
    drop = before.mpa - after.mpa
    if drop > policy.max_mpa_drop + ROUNDING:
        reasons.append(f"MPA fell by {drop:.3f}, at most {policy.max_mpa_drop:.3f} is allowed")
    if after.asr is not None and after.asr > policy.max_asr + ROUNDING:
        reasons.append(f"ASR is {after.asr:.3f}, at most {policy.max_asr:.3f} is allowed")
    if after.surrogate_asr is not None and after.surrogate_asr > policy.max_surrogate_asr + ROUNDING:
        reasons.append(f"surrogate ASR is {after.surrogate_asr:.3f}, at most {policy.max_surrogate_asr:.3f} is allowed")
    flagged = after.neural_cleanse.flagged if after.neural_cleanse else []
    if len(flagged) > policy.max_flagged_labels:
        labels = ", ".join(map(str, flagged))
        reasons.append(f"Neural Cleanse still flags label {labels}; {policy.max_flagged_labels} may be flagged")
    return reasons


def _kept_limits(before: Assessment, after: Assessment) -> list[str]:
    reasons = [f"MPA fell by {max(0.0, before.mpa - after.mpa):.3f}"]
    if after.asr is not None:
        reasons.append(f"ASR is {after.asr:.3f}")
    if after.surrogate_asr is not None:
        reasons.append(f"surrogate ASR is {after.surrogate_asr:.3f}")
    if after.neural_cleanse is not None:
        reasons.append("Neural Cleanse flags no more labels than allowed")
    return reasons


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
