"""Is the process alive, and is everything there that it needs? Open to all, so the answers name no addresses."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.context import Server

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "The database or the store is missing"}})
async def readyz(response: Response, here: Server) -> dict[str, str | dict[str, str]]:
    """`ok`; `degraded` without a broker, when jobs are taken and wait; `failed` (503) without database or store."""
    checks = await here.readiness.look(here)
    status = "ok" if checks["broker"] == "ok" else "degraded"
    if any(checks[name] != "ok" for name in ("database", "migrations", "store")):
        status = "failed"
        response.status_code = 503
    return {"status": status, "checks": checks}
