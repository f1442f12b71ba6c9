"""The detectors by name. Each looks for a backdoor in a model: with clean images alone, with suspicious images beside
them, or with a trigger that was reversed on the suspect. None changes what it is given."""

from collections.abc import Callable
from typing import Any

from worker.algorithms.detectors.activation_clustering import activation_clustering
from worker.algorithms.detectors.brain_stimulation import brain_stimulation
from worker.algorithms.detectors.neural_cleanse import neural_cleanse
from worker.algorithms.detectors.retuning import retuning
from worker.algorithms.detectors.sentinet import sentinet
from worker.algorithms.detectors.strip import strip
from worker.algorithms.detectors.universal import universal_perturbation
from worker.algorithms.detectors.universal_warp import universal_warp
from worker.algorithms.detectors.weight_path import weight_path

DETECTORS: dict[str, Callable[..., Any]] = {
    "neural_cleanse": neural_cleanse,
    "brain_stimulation": brain_stimulation,
    "universal_perturbation": universal_perturbation,
    "universal_warp": universal_warp,
    "strip": strip,
    "sentinet": sentinet,
    "activation_clustering": activation_clustering,
    "retuning": retuning,
    "weight_path": weight_path,
}

__all__ = ["DETECTORS"]
