"""The purifiers by name. Each is one function: a suspect and clean images in, a new model out; it never sees a
trigger."""

from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.nad import nad
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.sage import sage

PURIFIERS = {"sage": sage, "fine_tuning": fine_tuning, "nad": nad}

__all__ = ["PURIFIERS", "Purified"]
