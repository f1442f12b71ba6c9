"""What the SAGE paper (IEEE S&P 2023) says, where its text gives a number: ASR in per cent before and after."""

from __future__ import annotations

SHARE_OF_CIFAR10 = 0.01
# ASR of the suspect, after SAGE, and after the best of the six other defences; with 1 % of the training set.
CIFAR10 = {
    "badnets": (81.52, 10.11, 10.20),
    "trojan_nn": (99.64, 19.42, 38.21),
    "robnet": (98.85, 10.83, 74.47),
    "wanet": (97.25, 6.79, 8.96),
    "hidden_trigger": (73.20, 29.83, 29.84),
    "ingrain": (100.0, 65.12, 70.76),
    "issba": (90.77, 8.06, 8.11),
    "atteq_nn": (100.0, 0.0, 100.0),
}
BASELINES = ("fine_tuning", "pruning", "fine_pruning", "nad", "mcr", "anp")


def claim(dataset: str, attack: str, purifier: str, clean: int, training_images: int) -> dict[str, float] | None:
    """The paper's number for a cell, or None where its text has none. For one of the six baselines it is the best of
    them."""
    if dataset != "cifar10" or attack not in CIFAR10 or abs(clean / training_images - SHARE_OF_CIFAR10) > 1e-3:
        return None
    before, sage, best = CIFAR10[attack]
    if purifier == "sage":
        return {"asr_before": before, "asr": sage}
    return {"asr_before": before, "best_baseline_asr": best} if purifier in BASELINES else None
