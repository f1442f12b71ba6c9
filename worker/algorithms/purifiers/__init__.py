"""The purifiers by name. Each is one function: a suspect and clean images in, a new model out; it never sees a
trigger."""

from collections.abc import Callable

from worker.algorithms.purifiers.anp import anp
from worker.algorithms.purifiers.auto import auto
from worker.algorithms.purifiers.clp import clp
from worker.algorithms.purifiers.fine_pruning import fine_pruning
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.fst import fst
from worker.algorithms.purifiers.ft_sam import ft_sam
from worker.algorithms.purifiers.i_bau import i_bau
from worker.algorithms.purifiers.mcr import mcr
from worker.algorithms.purifiers.nad import nad
from worker.algorithms.purifiers.pruning import pruning
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.sage import sage
from worker.algorithms.purifiers.unlearning import unlearning

PURIFIERS: dict[str, Callable[..., Purified]] = {
    "sage": sage,
    "fine_tuning": fine_tuning,
    "nad": nad,
    "pruning": pruning,
    "fine_pruning": fine_pruning,
    "anp": anp,
    "clp": clp,
    "ft_sam": ft_sam,
    "fst": fst,
    "mcr": mcr,
    "i_bau": i_bau,
    "unlearning": unlearning,
    "auto": auto,
}

__all__ = ["PURIFIERS", "Purified"]
