"""What a caller must be allowed: every route of /v1 states its scope, as `dependencies=READ` and the like."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Security
from fastapi.params import Depends
from fastapi.security import HTTPBearer, SecurityScopes

from redeem.access import Scope
from service.auth import note_refusal
from service.errors import MissingScope

# Authenticate has checked the key or token long before; this tells /docs that there is one to give.
_SCHEME = HTTPBearer(auto_error=False, description="An API key, or a token of the server's issuer")


async def _check(asked: SecurityScopes, request: Request, _: Annotated[object, Security(_SCHEME)]) -> None:
    held = request.state.caller.scopes
    for scope in asked.scopes:
        if scope not in held and Scope.admin not in held:
            challenge = f'Bearer realm="redeem", error="insufficient_scope", scope="{scope}"'
            detail = f"This key or token lacks the scope `{scope}`."
            error = MissingScope(detail, headers={"WWW-Authenticate": challenge})
            note_refusal(request.app.state.context.notes, request, error)
            raise error


def _needs(scope: Scope) -> list[Depends]:
    return [Security(_check, scopes=[scope])]


READ = _needs(Scope.read)
UPLOADS_WRITE = _needs(Scope.uploads_write)
JOBS_WRITE = _needs(Scope.jobs_write)
ADMIN = _needs(Scope.admin)
