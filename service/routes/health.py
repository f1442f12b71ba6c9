"""Is the process alive, and is everything there that it needs? Open to all, so the answers name no addresses."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from fastapi import APIRouter, Response

from service import migrate, queue, store
from service.context import Context, Server

router = APIRouter(tags=["health"])

log = structlog.get_logger(__name__)


@router.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "The database or the store is missing"}})
def readyz(response: Response, here: Server) -> dict[str, str | dict[str, str]]:
    """`ok`; `degraded` without a broker, when jobs are taken and wait; `failed` (503) without database or store."""
    checks = {check.__name__.lstrip("_"): _result(check, here) for check in (_database, _migrations, _store, _broker)}
    status = "ok" if checks["broker"] == "ok" else "degraded"
    if any(checks[name] != "ok" for name in ("database", "migrations", "store")):
        status = "failed"
        response.status_code = 503
    return {"status": status, "checks": checks}


def _result(check: Callable[[Context], None], here: Context) -> str:
    try:
        check(here)
    except Exception as error:
        log.warning("not ready", check=check.__name__.lstrip("_"), error=str(error))
        return "failed"
    return "ok"


def _database(here: Context) -> None:
    with here.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")


def _migrations(here: Context) -> None:
    with here.engine.connect() as connection:
        if not migrate.fits(connection):
            raise RuntimeError("the database is not at the newest migration")


def _store(here: Context) -> None:
    store.check(here.store)


def _broker(here: Context) -> None:
    queue.waiting(here.queue)
