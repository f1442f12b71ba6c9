"""Every route of the app, read from the app, so that a new one is among them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi.params import Security
from fastapi.routing import RouteContext, iter_route_contexts

from redeem.access import Scope
from service.app import create_app
from service.settings import Settings


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    scopes: tuple[Scope, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _scopes(route: RouteContext) -> tuple[Scope, ...]:
    dependencies = getattr(route, "dependencies", ())  # the routes of /docs have none
    return tuple(Scope(scope) for one in dependencies if isinstance(one, Security) for scope in one.scopes or ())


OPERATIONS = [
    Operation(method, str(route.path), _scopes(route))
    for route in iter_route_contexts(create_app(Settings()).routes)
    for method in sorted(route.methods or ())
]
