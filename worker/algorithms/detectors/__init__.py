"""The detectors by name. Each looks for a backdoor in a model with clean images alone."""

from worker.algorithms.detectors.neural_cleanse import neural_cleanse

DETECTORS = {"neural_cleanse": neural_cleanse}

__all__ = ["DETECTORS"]
