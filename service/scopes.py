"""What a caller must be allowed: every route of /v1 states its scope, as `dependencies=READ` and the like."""

from __future__ import annotations

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.params import Depends
from fastapi.security.base import SecurityBase

from redeem.access import Scope
from service.auth import note_refusal
from service.errors import MissingScope


class _Needs(SecurityBase):
    """Authenticate has checked the key or token long before; as a scheme this tells /docs that there is one to give."""

    scheme_name = "HTTPBearer"
    model = HTTPBearer(description="An API key, or a token of the server's issuer")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> None:
        held = request.state.caller.scopes
        if self.scope in held or Scope.admin in held:
            return
        challenge = f'Bearer realm="redeem", error="insufficient_scope", scope="{self.scope}"'
        detail = f"This key or token lacks the scope `{self.scope}`."
        error = MissingScope(detail, headers={"WWW-Authenticate": challenge})
        note_refusal(request.app.state.context.notes, request, error)
        raise error


def _needs(scope: Scope) -> list[Depends]:
    return [Security(_Needs(scope), scopes=[scope])]


READ = _needs(Scope.read)
UPLOADS_WRITE = _needs(Scope.uploads_write)
JOBS_WRITE = _needs(Scope.jobs_write)
ADMIN = _needs(Scope.admin)
