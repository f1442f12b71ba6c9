"""Networks by name (`build`), and networks with somebody else's weights in them (`load`, `dump`)."""

from worker.algorithms.architectures.catalogue import PAPER, build, options_of
from worker.algorithms.architectures.state import Loaded, dump, infer, load

__all__ = ["PAPER", "Loaded", "build", "dump", "infer", "load", "options_of"]
