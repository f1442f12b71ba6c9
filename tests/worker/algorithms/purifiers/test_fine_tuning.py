from __future__ import annotations

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.classifier import Classifier
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.sage import sage

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)


def test_it_is_sage_without_what_sage_adds(suspect: Classifier) -> None:
    tuned = fine_tuning(suspect, CLEAN, HELD_OUT, epochs=3, seed=5)
    bare = sage(
        suspect,
        CLEAN,
        HELD_OUT,
        beta=0.0,
        own_logits=0.0,
        lr_scale="none",
        averaging=0.0,
        epochs=3,
        lr=0.01,
        weight_decay=5e-4,
        choose="last",
        seed=5,
    )
    assert same_state(tuned.model, bare.model)
    assert tuned.history == bare.history
    assert not same_state(tuned.model, suspect)


def test_it_gives_back_the_last_epoch_unless_told_otherwise(suspect: Classifier) -> None:
    assert fine_tuning(suspect, CLEAN, HELD_OUT, epochs=3, lr=0.05).chosen_epoch == 3
    chosen = fine_tuning(suspect, CLEAN, HELD_OUT, epochs=3, lr=0.05, choose="held_out")
    losses = [entry["held_out_loss"] for entry in chosen.history]
    assert chosen.chosen_epoch == losses.index(min(losses)) + 1
