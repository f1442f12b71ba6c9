"""How many requests a caller may make, told in every answer (RateLimit and RateLimit-Policy, draft 11 of the IETF)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool

from service.errors import RateLimited
from service.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Limiter:
    """So many in each minute, for each of those that are told apart. Counts in the memory of this process, or in the
    broker's Redis for all processes together."""

    name: str
    rate: RateLimitItemPerMinute
    windows: FixedWindowRateLimiter

    async def hit(self, who: str) -> dict[str, str]:
        """Count one, and give the headers that tell where the caller stands. Raises RateLimited."""
        try:
            allowed = await self.windows.hit(self.rate, self.name, who)
            stats = await self.windows.get_window_stats(self.rate, self.name, who)
        except StorageError as error:  # better no limit than no service
            log.warning("requests are not counted", error=str(error))
            return {}
        seconds = max(1, math.ceil(stats.reset_time - time.time()))
        headers = {
            "RateLimit-Policy": f'"{self.name}";q={self.rate.amount};w=60',
            "RateLimit": f'"{self.name}";r={stats.remaining};t={seconds}',
        }
        if not allowed:
            detail = f"There may be {self.rate.amount} {self.name} a minute, and there were more."
            raise RateLimited(detail, headers=headers | {"Retry-After": str(seconds)})
        return headers


@dataclass(frozen=True)
class Rates:
    requests: Limiter
    """Of each key."""
    failures: Limiter
    """Requests without a good key, of each address."""
    redis: ConnectionPool | None

    async def close(self) -> None:
        if self.redis is not None:
            await self.redis.disconnect()


def open_rates(settings: Settings) -> Rates:
    redis: ConnectionPool | None = None
    storage: Storage = MemoryStorage()
    if settings.count_requests_in == "broker":
        redis = ConnectionPool.from_url(settings.broker_url, socket_timeout=1, socket_connect_timeout=1)
        storage = RedisStorage(
            f"async+{settings.broker_url}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="redeem-rates",
            connection_pool=redis,  # type: ignore[arg-type]  # its documentation has it, its types do not
        )
    windows = FixedWindowRateLimiter(storage)
    return Rates(
        Limiter("requests", RateLimitItemPerMinute(settings.requests_per_minute), windows),
        Limiter("failed-authentications", RateLimitItemPerMinute(settings.failures_per_minute), windows),
        redis,
    )
