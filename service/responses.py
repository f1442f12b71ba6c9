"""What /openapi.json says beyond what FastAPI reads from the routes: how each refuses, and where bytes are raw."""

from __future__ import annotations

from http import HTTPStatus
from itertools import groupby
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from redeem.contract import Problem
from service.errors import BadRequest, Deleted, InvalidRequest, KeyInUse, KeyReused, ServiceError, TooLarge

Responses = dict[int | str, dict[str, Any]]

CREATING = (BadRequest, KeyInUse, Deleted, TooLarge, KeyReused)
"""Why any request that creates may be refused."""
PROBLEM = {"$ref": "#/components/schemas/Problem"}
RAW = {"type": "string", "format": "binary"}
RAW_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": RAW}}}}
"""`openapi_extra` of a route that takes a file as it is."""
FILE: Responses = {
    200: {"description": "The file", "content": {"*/*": {}}},
    206: {"description": "The part asked for", "content": {"*/*": {}}},
    304: {"description": "The client has it already"},
}


def refusals(*errors: type[ServiceError]) -> Responses:
    """The `responses` of a route that may refuse so: one for each status, with an example for each code."""
    kinds = set(errors)
    if any(issubclass(error, InvalidRequest) for error in errors):
        kinds.add(InvalidRequest)
    ordered = sorted(kinds, key=lambda error: (error.status, error.code))
    return {status: _refusal(list(alike)) for status, alike in groupby(ordered, key=lambda error: error.status)}


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` know what a problem looks like."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            made["components"]["schemas"] |= {**problem.pop("$defs"), "Problem": problem}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _refusal(errors: list[type[ServiceError]]) -> dict[str, Any]:
    phrase = HTTPStatus(errors[0].status).phrase
    examples = {
        error.code: {
            "value": {
                "type": error.type,
                "title": phrase,
                "status": error.status,
                "detail": "What happened, and what was expected.",
                "code": error.code,
                "hint": error.hint,
            }
        }
        for error in errors
    }
    return {
        "description": f"{phrase}: {', '.join(f'`{code}`' for code in examples)}",
        "content": {"application/problem+json": {"schema": PROBLEM, "examples": examples}},
    }
