"""The verdict, from two assessments and the job's policy. Pure: no model, no image, no randomness."""

from __future__ import annotations

from redeem.contract import Assessment, Outcome, Policy, Verdict

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
