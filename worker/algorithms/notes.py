"""What an algorithm has to say of its own result: no error, but something that its reader should know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """`code` is stable and goes on the wire as a flag's; `message` says what happened, `advice` what may be done."""

    code: str
    message: str
    advice: str
