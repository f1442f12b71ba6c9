"""What an algorithm refuses, and why.

AlgorithmError
├── UnusableImages       the images given cannot serve: none, wrong shape, labels out of range
├── WeightsMismatch      a state dict does not fit the architecture that it is said to be
├── UnknownArchitecture  no network of that name, or an option that it does not have
├── TooFewTaps           the network has fewer than two attention maps to align
├── UnknownTap           a module that was named for reading attention is none, or gives no map
├── UnfitNetwork         the network has none of the layers that a method works on
├── UnfitOptions         options that do not fit this network: no such tap, not one β a path
└── Diverged             training ended in NaN, or in a collapse of held-out accuracy
"""

from __future__ import annotations


class AlgorithmError(Exception):
    """Base of every error that `worker.algorithms` raises on purpose.

    `code` is stable and goes on the wire; the message says what happened and what was expected; `hint` says what to do.
    """

    code = "algorithm_error"
    hint = ""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class UnusableImages(AlgorithmError):
    code = "unusable_images"
    hint = "Send a bundle with at least a few images of every class, all of the size the preprocessing names."


class WeightsMismatch(AlgorithmError):
    code = "weights_mismatch"
    hint = "Check the architecture's name, class count, input channels and options against the network that was saved."


class UnknownArchitecture(AlgorithmError):
    code = "unknown_architecture"
    hint = "GET /v1/architectures lists what this server can load."


class TooFewTaps(AlgorithmError):
    code = "too_few_taps"
    hint = "At least two layers with attention maps are needed: name them in the option `taps`, or use another method."


class UnfitNetwork(AlgorithmError):
    code = "unfit_network"
    hint = "This method is not for networks of this kind; take another one, such as `sage` or `ft_sam`."


class UnfitOptions(AlgorithmError):
    code = "unfit_options"
    hint = "Correct the purifier's options; a report lists the taps that were found, by number and name."


class UnknownTap(AlgorithmError):
    code = "unknown_tap"
    hint = "Name modules of the network as PyTorch's named_modules() does, such as layer3 or features.denseblock2."


class Diverged(AlgorithmError):
    code = "diverged"
    hint = "Lower the learning rate, or send more clean images."
