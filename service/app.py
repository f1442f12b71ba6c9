"""Composes the service: engine, store, queue and routes. Run it with `uvicorn service.app:create_app --factory`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event, Thread

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from starlette.middleware import Middleware

from service import database, dispatcher, keys, log, migrate, notes, problems, rates, signing, stopping, tracing, upkeep
from service.auth import Authenticate, Gate
from service.context import Context, open_context
from service.errors import DatabaseUnavailable, InvalidRequest, MissingScope, RateLimited, Unauthorized
from service.limits import LimitBody
from service.metrics import MeasureRequests
from service.oidc import InvalidToken, Issuer, IssuerUnavailable, UnknownTenant
from service.responses import describe, refusals
from service.routes import (
    bundles,
    catalogue,
    content,
    deletions,
    downloads,
    events,
    health,
    jobs,
    metrics,
    models,
    public_keys,
    reports,
    uploads,
    webhooks,
)
from service.settings import Settings
from service.webhooks import delivery


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or Settings()
    log.configure()
    tracing.configure(settings, "redeem-api")
    app = FastAPI(
        title="Redeem",
        version="1",
        summary="Sanitizes image classifiers that somebody else trained.",
        lifespan=_lifespan,
        middleware=[
            Middleware(log.LogRequests),
            Middleware(MeasureRequests),
            Middleware(Authenticate),
            Middleware(LimitBody),
        ],
        telemetry={"tracing": True, "metrics": False, "logs": False},  # these two have their own ways: /metrics, log.py
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    problems.install(app)
    tokens = (InvalidToken, UnknownTenant, IssuerUnavailable)
    everywhere = refusals(Unauthorized, MissingScope, InvalidRequest, RateLimited, DatabaseUnavailable, *tokens)
    # FastAPI tries one after the other, and where they are nested twice: what is asked for most comes first.
    for route in (
        jobs,
        events,
        reports,
        downloads,
        uploads,
        content,
        models,
        bundles,
        webhooks,
        catalogue,
        public_keys,
        deletions,
    ):
        app.include_router(route.router, prefix="/v1", responses=everywhere)
    app.include_router(health.router)
    app.include_router(metrics.router)
    describe(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context = await run_in_threadpool(_open, app.state.settings)
    app.state.context = context
    issuer = Issuer(context.settings) if context.settings.oidc_issuer else None
    app.state.gate = gate = Gate(context.readers, rates.open_rates(context.settings), context.notes, issuer)
    stop = Event()
    work = (dispatcher, delivery, upkeep)
    loops = [Thread(target=loop.run, args=(context, stop), name=loop.__name__) for loop in work]
    for loop in loops:
        loop.start()
    try:
        async with notes.written(context.sessions, context.notes):
            with stopping.heard(context.stopping):
                yield
    finally:
        stop.set()
        context.wake.set()
        for loop in loops:
            await run_in_threadpool(loop.join)
        await gate.rates.close()
        context.queue.close()
        context.engine.dispose()


def _open(settings: Settings) -> Context:
    engine = database.open_engine(settings)
    _migrate(engine)
    context = open_context(settings, engine)
    keys.ensure_first_key(settings, context.sessions)
    signing.ensure_key(settings, context.sessions)
    return context


def _migrate(engine: Engine) -> None:
    """SQLite belongs to this machine alone and is migrated at start. A database that others share is migrated by its
    operator, when all of them can bear it."""
    if engine.dialect.name == "sqlite":
        migrate.upgrade(engine)
        return
    with engine.connect() as connection:
        if not migrate.fits(connection):
            raise RuntimeError("the database is not at the newest migration; run `redeem db upgrade` first")
