"""The attacks by name. They make suspects for tests, examples and benchmarks; nothing of the service uses them."""

from worker.algorithms.attacks.badnets import badnets
from worker.algorithms.attacks.blended import blended
from worker.algorithms.attacks.wanet import wanet

ATTACKS = {"badnets": badnets, "blended": blended, "wanet": wanet}

__all__ = ["ATTACKS"]
