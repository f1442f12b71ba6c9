"""What `redeem doctor` finds out, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    name: str
    state: Literal["ok", "note", "bad"]
    """A note works, but know it."""
    detail: str
    mend: str = ""
