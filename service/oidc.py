"""Bearer tokens of an OpenID Connect issuer, beside API keys: whom they speak for, and what they allow.

Only the issuer that the operator named is asked, and only for its public keys. A token says which of these signed it,
and nothing about how that is checked.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import httpx
import jwt
import structlog
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from sqlalchemy import select

from redeem.access import Scope
from service.database import Sessions
from service.errors import ServiceError, Unauthorized
from service.settings import Settings
from service.tables import TenantRow
from service.tenancy import Caller

log = structlog.get_logger(__name__)

FORM = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
ALGORITHMS = ("RS256", "ES256", "EdDSA")
REQUIRED = ("exp", "iat", "iss", "aud", "sub")
LEEWAY = 30.0
"""Seconds that the clocks of issuer and server may differ by."""
KEPT = 600.0
"""Seconds that fetched keys are good for."""
AGAIN = 30.0
"""Seconds between two fetches at least, whatever keys tokens name, while there are good ones."""
RETRY = 5.0
"""… and while there are none, because the issuer did not give them."""
PATIENCE = 10.0
"""Seconds for both of the issuer's documents together."""
LARGEST = 2**18
"""Bytes of one of them at most."""
LONGEST_SUBJECT = 200


class InvalidToken(Unauthorized):
    code = "invalid_token"
    hint = "Get a new token for this server from the issuer, or use an API key."
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="redeem", error="invalid_token"'}


class UnknownTenant(ServiceError):
    status, code = 403, "unknown_tenant"
    hint = "Have the issuer name a tenant of this server; `redeem tenants create`, where the server runs, makes one."


class IssuerUnavailable(ServiceError):
    status, code = 503, "issuer_unavailable"
    hint = "Try again shortly, or use an API key; the operator should check REDEEM_OIDC_ISSUER."
    headers: Mapping[str, str] = {"Retry-After": f"{RETRY:g}"}


class Configuration(BaseModel):
    """Of an issuer's `/.well-known/openid-configuration`, what is read here."""

    issuer: str
    jwks_uri: str


class Keys(BaseModel):
    """An issuer's JSON Web Key Set."""

    keys: list[dict[str, Any]]


@dataclass
class Issuer:
    """What one event loop knows of it. Times are on the monotonic clock."""

    settings: Settings
    keys: Sequence[jwt.PyJWK] = ()
    fetched: float = float("-inf")
    """When the keys came; before `asked` if the last try failed."""
    asked: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


async def admit(issuer: Issuer, readers: Sessions, token: str) -> tuple[Caller, float]:
    """Who a token speaks for, and its `exp`. Raises InvalidToken, UnknownTenant, IssuerUnavailable, and what the
    database raises when it is down."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise InvalidToken("The header of this token cannot be read.") from error
    if header.get("alg") not in ALGORITHMS:
        raise InvalidToken(f"This token is not signed with {', '.join(ALGORITHMS[:-1])} or {ALGORITHMS[-1]}.")
    key = await _key(issuer, header.get("kid"), header["alg"])
    return await run_in_threadpool(_check, issuer.settings, readers, token, key)


async def _key(issuer: Issuer, kid: str | None, algorithm: str) -> jwt.PyJWK:
    key = _find(issuer, kid, algorithm)
    if key is None:
        async with issuer.lock:  # whoever waits here holds no thread
            key = _find(issuer, kid, algorithm)
            if key is None and time.monotonic() >= issuer.asked + (AGAIN if _good_keys(issuer) else RETRY):
                await _ask(issuer)
                key = _find(issuer, kid, algorithm)
    if key is not None:
        return key
    if issuer.fetched < issuer.asked:
        raise IssuerUnavailable("The issuer of tokens does not give its keys, so this token cannot be checked.")
    raise InvalidToken("This token names no key of the issuer's by its `kid` and `alg`.")


def _find(issuer: Issuer, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
    """A token that names no key means the only one of its algorithm."""
    fitting = [
        key for key in _good_keys(issuer) if key.algorithm_name == algorithm and (kid is None or key.key_id == kid)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _good_keys(issuer: Issuer) -> Sequence[jwt.PyJWK]:
    return issuer.keys if time.monotonic() < issuer.fetched + KEPT else ()


async def _ask(issuer: Issuer) -> None:
    """Fetch the keys, or tell the log why not. A thread that hangs in name resolution is left to itself."""
    issuer.asked = time.monotonic()
    try:
        with anyio.fail_after(PATIENCE):
            issuer.keys = await anyio.to_thread.run_sync(_fetch, issuer.settings.oidc_issuer, abandon_on_cancel=True)
    except (httpx.HTTPError, httpx.InvalidURL, jwt.PyJWTError, ValueError, OSError) as error:
        log.warning("the issuer's keys were not fetched", error=f"{type(error).__name__}: {error}"[:300])
    else:
        issuer.fetched = time.monotonic()


def _fetch(issuer: str) -> list[jwt.PyJWK]:
    with httpx.Client(timeout=PATIENCE / 2, headers={"Accept-Encoding": "identity"}) as http:
        address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        told = Configuration.model_validate_json(_get(http, address))
        if told.issuer != issuer:
            raise ValueError("the configuration is another issuer's")
        if not told.jwks_uri.startswith("https://" if issuer.startswith("https://") else ("https://", "http://")):
            raise ValueError("the keys are not behind https")
        listed = Keys.model_validate_json(_get(http, told.jwks_uri))
    usable = jwt.PyJWKSet(listed.keys).keys
    return [key for key in usable if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")]


def _get(http: httpx.Client, url: str) -> bytes:
    """One document, in time and not too large. Redirects are not followed: they lead where nobody checked."""
    body, deadline = bytearray(), time.monotonic() + PATIENCE
    with http.stream("GET", url) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answers with status {answer.status_code}")
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > LARGEST or time.monotonic() > deadline:
                raise ValueError(f"{url} is larger than {LARGEST} bytes, or slow")
    return bytes(body)


def _check(settings: Settings, readers: Sessions, token: str, key: jwt.PyJWK) -> tuple[Caller, float]:
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=settings.oidc_audience,
            issuer=settings.oidc_issuer,
            leeway=LEEWAY,
            options={"require": list(REQUIRED), "enforce_minimum_key_length": True},
        )
    except jwt.PyJWTError as error:
        raise InvalidToken(_reason(settings, error)) from error
    subject = claims["sub"]
    if not (0 < len(subject) <= LONGEST_SUBJECT and subject.isprintable()):
        raise InvalidToken(f"`sub` of this token has not 1 to {LONGEST_SUBJECT} printable characters.")
    tenant = _tenant(readers, claims.get(settings.oidc_tenant_claim))
    if tenant is None:
        raise UnknownTenant(f"The claim `{settings.oidc_tenant_claim}` of this token names no tenant of this server.")
    return Caller(tenant, f"oidc:{subject}", _scopes(claims.get(settings.oidc_scope_claim))), float(claims["exp"])


def _reason(settings: Settings, error: jwt.PyJWTError) -> str:
    """In words of our own: the library's may repeat parts of the token."""
    match error:
        case jwt.ExpiredSignatureError():
            return "This token has expired: its `exp` is over."
        case jwt.ImmatureSignatureError():
            return "This token is not valid yet: its `nbf` or `iat` is to come."
        case jwt.MissingRequiredClaimError():
            return f"This token lacks the claim `{error.claim}`; {', '.join(REQUIRED)} are needed."
        case jwt.InvalidAudienceError():
            return f"This token is for another server: its `aud` should hold `{settings.oidc_audience}`."
        case jwt.InvalidIssuerError():
            return f"This token is of another issuer: its `iss` should be `{settings.oidc_issuer}`."
        case jwt.InvalidSignatureError():
            return "The signature of this token is not by the issuer's key that it names."
        case _:
            return f"This token is malformed, or its key too short; a JWT with {', '.join(REQUIRED)} was expected."


def _tenant(readers: Sessions, name: object) -> UUID | None:
    if not isinstance(name, str) or not name.isprintable():
        return None
    with readers() as session:
        return session.scalar(select(TenantRow.id).where(TenantRow.name == name))


def _scopes(claim: object) -> frozenset[Scope]:
    """Those of ours among a list, or names separated by spaces. Others are for other servers."""
    given = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(scope for scope in Scope if scope in given)
