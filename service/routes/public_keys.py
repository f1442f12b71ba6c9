"""The public keys of this server: what `redeem verify` checks its provenance with."""

from __future__ import annotations

from fastapi import APIRouter

from redeem.attestation import PublicKeys
from service import signing
from service.context import Server
from service.scopes import READ

router = APIRouter(tags=["keys"])


@router.get("/keys", dependencies=READ)
def list_keys(server: Server) -> PublicKeys:
    """A JWK set: the keys in use, and retired ones, whose signatures stay good."""
    with server.readers() as session:
        return PublicKeys(keys=signing.public_keys(session))
