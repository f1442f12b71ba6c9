"""What a server attests of a purified model: an in-toto Statement v1 with SLSA's provenance v1, and the keys for it.

The field names are those of the two specifications; what they leave to us is under `externalParameters` and, as SLSA
wants of extensions, under a name that begins with `redeem_`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from redeem.contract import Architecture, MethodRequest, Preprocessing
from redeem.report import Verdict
from redeem.wire import Resource

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:redeem:sanitize:1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

PROVENANCE = "provenance.intoto.jsonl"
BOM = "bom.cdx.json"


class PublicKey(Resource):
    """An Ed25519 key as a JWK (RFC 8037); `kid` is its thumbprint (RFC 7638). What a retired key signed stays good."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    alg: Literal["EdDSA"] = "EdDSA"
    use: Literal["sig"] = "sig"
    kid: str
    x: str
    created_at: datetime | None = None
    retired_at: datetime | None = None


class PublicKeys(Resource):
    """A JWK set: every key that this server signed with, the retired ones too."""

    keys: list[PublicKey]


class Attested(Resource):
    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True)


class Digest(Attested):
    sha256: str


class File(Attested):
    name: str
    digest: Digest


class Parameters(Attested):
    """All that whoever submitted the job had a say in, defaults filled in."""

    architecture: Architecture
    preprocessing: Preprocessing
    target: int | list[int] | None
    purifier: MethodRequest
    detectors: list[MethodRequest]
    seed: int


class BuildDefinition(Attested):
    build_type: str
    external_parameters: Parameters
    resolved_dependencies: list[File]
    """`suspect`, `clean`, and `triggered` where triggered images came."""


class Builder(Attested):
    id: str
    version: dict[str, str]


class Metadata(Attested):
    invocation_id: str
    """The job's id, as a URN."""
    started_on: datetime
    finished_on: datetime


class RunDetails(Attested):
    builder: Builder
    metadata: Metadata


class Provenance(Attested):
    build_definition: BuildDefinition
    run_details: RunDetails
    verdict: Verdict = Field(alias="redeem_verdict")


class Statement(Attested):
    type: Literal["https://in-toto.io/Statement/v1"] = Field(STATEMENT, alias="_type")
    subject: list[File]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = PREDICATE
    predicate: Provenance

    def dependency(self, name: str) -> str | None:
        """The SHA-256 of an input of the job."""
        inputs = self.predicate.build_definition.resolved_dependencies
        return next((file.digest.sha256 for file in inputs if file.name == name), None)


def encode(statement: Statement) -> bytes:
    """The payload that is signed."""
    return statement.model_dump_json().encode()


def decode(payload: bytes) -> Statement:
    """Raises pydantic's ValidationError."""
    return Statement.model_validate_json(payload)
