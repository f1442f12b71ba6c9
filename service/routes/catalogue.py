"""What this server can do: the networks it loads, the methods it runs, and their options."""

from __future__ import annotations

import inspect

from fastapi import APIRouter

from redeem.architectures import ARCHITECTURES
from redeem.contract import ArchitectureFamily, Method
from redeem.detector_options import DETECTOR_OPTIONS
from redeem.options import PURIFIER_OPTIONS
from redeem.wire import Request
from service.scopes import READ

router = APIRouter(tags=["catalogue"])


@router.get("/architectures", dependencies=READ)
async def list_architectures() -> list[ArchitectureFamily]:
    return [ArchitectureFamily(name=name, options=options) for name, options in ARCHITECTURES.items()]


@router.get("/purifiers", dependencies=READ)
async def list_purifiers() -> list[Method]:
    return _methods(PURIFIER_OPTIONS)


@router.get("/detectors", dependencies=READ)
async def list_detectors() -> list[Method]:
    return _methods(DETECTOR_OPTIONS)


def _methods(options: dict[str, type[Request]]) -> list[Method]:
    return [
        Method(name=name, summary=inspect.getdoc(kind) or "", options_schema=kind.model_json_schema())
        for name, kind in options.items()
    ]
