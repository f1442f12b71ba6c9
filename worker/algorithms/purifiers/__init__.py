"""The purifiers by name. Each is one function: a suspect and clean images in, a new model out; it never sees a
trigger."""

from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.sage import sage

PURIFIERS = {"sage": sage}

__all__ = ["PURIFIERS", "Purified"]
