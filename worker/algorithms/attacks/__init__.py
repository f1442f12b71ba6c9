"""The attacks by name. They make suspects for tests, examples and benchmarks; nothing of the service uses them."""

from worker.algorithms.attacks.badnets import badnets

ATTACKS = {"badnets": badnets}

__all__ = ["ATTACKS"]
