"""Whether this worker knows what a job asks for. While a release rolls in, an API may be newer than a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import ValidationError

from redeem.contract import MethodRequest
from redeem.detector_options import DETECTOR_OPTIONS
from redeem.options import PURIFIER_OPTIONS
from worker.stages.errors import Unsupported


@contextmanager
def understanding() -> Iterator[None]:
    """Raises Unsupported where something read here has a form that this release does not know."""
    try:
        yield
    except ValidationError as error:
        names = {".".join(map(str, fault["loc"])) or error.title for fault in error.errors()}
        raise Unsupported(f"this worker does not know {', '.join(sorted(names))} of {error.title}") from error


def know_methods(purifier: MethodRequest, detectors: Sequence[MethodRequest]) -> None:
    """Raises Unsupported where a method or one of its options is unknown here, before anything is computed."""
    for known, methods in ((PURIFIER_OPTIONS, [purifier]), (DETECTOR_OPTIONS, detectors)):
        for method in methods:
            if method.name not in known:
                raise Unsupported(f"this worker has no {method.name}")
            with understanding():
                known[method.name].model_validate(method.options)
