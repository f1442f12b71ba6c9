"""The key that this server signs with: Ed25519, in a file that its owner alone can read.

Hosts of one server that do not share the file have a key each. The public halves are in the database, so that any host
tells all of them, and those of the past.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from redeem.attestation import PAYLOAD_TYPE, PublicKey
from redeem.verification import public_key
from service import audit
from service.clock import from_now
from service.database import Sessions
from service.settings import Settings
from service.tables import SigningKeyRow

log = structlog.get_logger(__name__)


def ensure_key(settings: Settings, sessions: Sessions) -> None:
    """See to it that there is a key to sign with, and that the database knows its public half. A file that came back
    from before a rotation is replaced: what a retired key signs now is not believed."""
    file = settings.signing_key_file
    if not file.exists():
        _write_new(file)
        log.info("made a signing key", file=str(file))
    public = public_key(_read(file).public_key())
    with sessions.begin() as session:
        row = session.get(SigningKeyRow, public.kid)
        if row is None:
            session.add(SigningKeyRow(kid=public.kid, x=public.x))
    if row is not None and row.retired_at is not None:
        log.warning("the signing key was retired before; making another", key=public.kid)
        rotate(settings, sessions)


def rotate(settings: Settings, sessions: Sessions) -> PublicKey:
    """Replace this host's key. The old private key is gone afterwards; its public half stays, marked as retired."""
    file = settings.signing_key_file
    old = public_key(_read(file).public_key()) if file.exists() else None
    file.unlink(missing_ok=True)
    new = public_key(_write_new(file).public_key())
    with sessions.begin() as session:
        if old is not None:
            unretired = (SigningKeyRow.kid == old.kid, SigningKeyRow.retired_at.is_(None))
            session.execute(update(SigningKeyRow).where(*unretired).values(retired_at=from_now()))
        session.add(SigningKeyRow(kid=new.kid, x=new.x))
        audit.note(session, "signing_key.rotated", new.kid)
    return new


def sign(settings: Settings, payload: bytes) -> bytes:
    """A DSSE envelope around the payload, as one line of JSON. The same payload and key give the same bytes."""
    private = _read(settings.signing_key_file)
    public = private.public_key()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(private, SSlibKey.from_crypto(public, keyid=public_key(public).kid)))
    return json.dumps(envelope.to_dict(), sort_keys=True).encode() + b"\n"


def public_keys(session: Session) -> list[PublicKey]:
    """The newest first."""
    rows = session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.created_at.desc()))
    return [PublicKey.model_validate(row, from_attributes=True) for row in rows]


def _read(file: Path) -> Ed25519PrivateKey:
    key = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{file} holds no Ed25519 key")
    return key


def _write_new(file: Path) -> Ed25519PrivateKey:
    """A new key in a new file. Where another process makes one at the same time, the first of the two stands."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pem)
            opened.flush()
            os.fsync(opened.fileno())
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink()
    return _read(file)
