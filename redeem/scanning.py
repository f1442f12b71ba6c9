"""What a scanner says of a file, in a report."""

from __future__ import annotations

from redeem.wire import Resource


class ScanFinding(Resource):
    name: str
    """What a pickle calls, as in `module.function`."""
    safety: str
    """`suspicious` or `dangerous`, in the scanner's words."""


class Scan(Resource):
    """What a scanner says of the pickle in a checkpoint: evidence for the reader. A shorter list than its own decides
    what is loaded at all."""

    scanner: str
    findings: list[ScanFinding]
