"""Is a file what a server attested? Checked with public keys alone: no server, no network, no torch."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error, VerificationError
from securesystemslib.signer import SSlibKey

from redeem.attestation import BUILD_TYPE, PAYLOAD_TYPE, PublicKey, PublicKeys, Statement, decode
from redeem.contract import Outcome
from redeem.errors import BadInput, NotGenuine
from redeem.transfer import digest

LARGEST = 16 * 2**20
"""Bytes of a provenance or key file that are read. One of a thousand targets has some ten thousand."""


def verify(provenance: Path, keys: Sequence[PublicKey]) -> Statement:
    """The statement in a DSSE envelope, once one of the keys has signed it. Raises BadInput where the file cannot be
    read, and NotGenuine where it is no envelope, nobody known signed it, or it is not of a sanitization."""
    envelope = _envelope(_read(provenance), provenance)
    by_id = {key.kid: key for key in keys}
    try:
        signed_by = envelope.verify([_checker(key) for key in keys], 1)
    except (VerificationError, ValueError) as error:
        signers = ", ".join(map(str, envelope.signatures)) or "nobody"
        raise NotGenuine(
            "signature_invalid",
            f"{provenance} was not signed with a key that is trusted here; it names {signers}.",
            f"Trusted are {', '.join(by_id) or 'none'}. Do not use the model unless its server's key says otherwise.",
        ) from error
    try:
        statement = decode(envelope.payload)
    except ValidationError as error:
        raise _malformed(provenance, "it is signed, but holds no statement that this version knows") from error
    if envelope.payload_type != PAYLOAD_TYPE or statement.predicate.build_definition.build_type != BUILD_TYPE:
        raise _malformed(provenance, "it is signed, but not about a sanitization")
    _check_age(statement, [by_id[kid] for kid in signed_by])
    return statement


def check_subject(statement: Statement, file: Path) -> None:
    """Raise NotGenuine unless the statement is about this very file. Its name does not matter, its bytes do."""
    _, sha256 = digest(file)
    if all(subject.digest.sha256 != sha256 for subject in statement.subject):
        attested = ", ".join(f"{subject.name} ({subject.digest.sha256})" for subject in statement.subject[:3])
        raise NotGenuine(
            "subject_mismatch",
            f"{file} has SHA-256 {sha256}, and the provenance is about others: {attested} …",
            "It was altered, or belongs to another job. Download it and its provenance again.",
        )


def check_suspect(statement: Statement, file: Path) -> None:
    """Raise NotGenuine unless this file is the suspect that was purified."""
    _, sha256 = digest(file)
    attested = statement.dependency("suspect")
    if sha256 != attested:
        raise NotGenuine(
            "suspect_mismatch",
            f"{file} has SHA-256 {sha256}, and what was purified had {attested}.",
            "The purified model was made from another suspect.",
        )


def check_verdict(statement: Statement, wanted: Outcome) -> None:
    """Raise NotGenuine unless the job ended with this verdict."""
    verdict = statement.predicate.verdict
    if verdict.outcome != wanted:
        raise NotGenuine(
            "verdict_mismatch",
            f"The verdict is {verdict.outcome}, not {wanted}: {'; '.join(verdict.reasons)}.",
            "The report has the figures.",
        )


def read_keys(path: Path) -> list[PublicKey]:
    """Public keys from a file: one as PEM, or what GET /v1/keys answers. Raises BadInput."""
    content = _read(path)
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            key = load_pem_public_key(content)
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError("not an Ed25519 key")
            return [public_key(key)]
        return PublicKeys.model_validate_json(content).keys
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(
            "bad_key", f"{path} holds no Ed25519 public key.", "Give one as PEM, or what GET /v1/keys answers."
        ) from error


def public_key(key: Ed25519PublicKey) -> PublicKey:
    """A key as it stands on the wire, under its RFC 7638 thumbprint."""
    x = _base64url(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    thumbprint = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
    return PublicKey(kid=_base64url(thumbprint), x=x)


def _checker(key: PublicKey) -> SSlibKey:
    """Raises BadInput where the key is none."""
    try:
        raw = base64.b64decode(f"{key.x}=".encode(), altchars=b"-_", validate=True)
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw), keyid=key.kid)
    except ValueError as error:
        raise BadInput("bad_key", f"{key.kid} is no Ed25519 key.", "Take the keys from GET /v1/keys.") from error


def _check_age(statement: Statement, signers: Sequence[PublicKey]) -> None:
    """A retired key signs nothing that happened later, unless somebody else has it."""
    finished = statement.predicate.run_details.metadata.finished_on
    if all(key.retired_at is not None and finished > key.retired_at for key in signers):
        raise NotGenuine(
            "key_retired",
            f"The job ended at {finished:%Y-%m-%d %H:%M} UTC, when its key was retired already.",
            "Somebody else may have the key. Ask the operator of the server.",
        )


def _envelope(content: bytes, path: Path) -> Envelope:
    try:
        envelope = Envelope.from_dict(json.loads(content))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, Error) as error:
        raise _malformed(path, "it is no DSSE envelope on one line") from error
    if not isinstance(envelope.payload_type, str):
        raise _malformed(path, "its payload has no type")
    return envelope


def _malformed(path: Path, why: str) -> NotGenuine:
    return NotGenuine("provenance_malformed", f"{path} is no provenance: {why}.", "Download it again.")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise BadInput(
            "file_unreadable", f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from error
    if len(content) > LARGEST:
        raise BadInput("file_too_large", f"{path} has more than {LARGEST} bytes.", "Give the file that was meant.")
    return content


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
