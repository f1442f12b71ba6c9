"""Provenance as a receiver checks it, with files alone; what the service signs is in tests/service/test_attest.py."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_elliptic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from redeem.attestation import PAYLOAD_TYPE, PublicKeys
from redeem.cli import main
from redeem.errors import BadInput, NotGenuine
from redeem.transfer import digest
from redeem.verification import public_key, read_keys, verify

FINISHED = datetime(2026, 1, 2, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
PUBLIC = public_key(KEY.public_key())


def sign(payload: bytes, key: Ed25519PrivateKey = KEY, payload_type: str = PAYLOAD_TYPE) -> bytes:
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(key.public_key(), keyid=public_key(key.public_key()).kid)))
    return json.dumps(envelope.to_dict()).encode()


def statement(subject: Path, suspect: Path) -> dict[str, Any]:
    """As the two specifications write it."""
    parameters = {
        "architecture": {"name": "paper/resnet18"},
        "preprocessing": {"size": [8, 8], "mean": [0.5], "std": [0.2], "channels": "L"},
        "target": None,
        "purifier": {"name": "sage", "options": {}},
        "detectors": [],
        "seed": 7,
    }
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "purified.safetensors", "digest": {"sha256": digest(subject)[1]}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:redeem:sanitize:1",
                "externalParameters": parameters,
                "resolvedDependencies": [{"name": "suspect", "digest": {"sha256": digest(suspect)[1]}}],
            },
            "runDetails": {
                "builder": {"id": "urn:redeem:server", "version": {"redeem": "1"}},
                "metadata": {
                    "invocationId": "urn:uuid:0",
                    "startedOn": FINISHED.isoformat(),
                    "finishedOn": FINISHED.isoformat(),
                },
            },
            "redeem_verdict": {"outcome": "fail", "reasons": ["ASR is 0.9"], "policy": {}},
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A purified model, its suspect, the provenance, and the trusted keys."""
    (tmp_path / "purified").write_bytes(b"purified")
    (tmp_path / "suspect").write_bytes(b"suspect")
    content = statement(tmp_path / "purified", tmp_path / "suspect")
    (tmp_path / "provenance").write_bytes(sign(json.dumps(content).encode()))
    (tmp_path / "keys.json").write_text(PublicKeys(keys=[PUBLIC]).model_dump_json())
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def ran(*options: str, file: str = "purified", key: str = "keys.json") -> tuple[int, str]:
        command = ["verify", file, "--provenance", "provenance", "--key", key, *options]
        paths = {path.name for path in folder.iterdir()}
        with pytest.raises(SystemExit) as exit_:
            main([str(folder / word) if word in paths and word != "verify" else word for word in command])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out + captured.err

    return ran


def test_a_genuine_file_is_told_with_what_it_came_from(folder: Path, run: Any) -> None:
    for key in ("keys.json", "key.pem"):
        code, told = run(key=key)
        assert code == 0
        for said in ("is genuine", digest(folder / "suspect")[1], "sage, seed 7", "verdict fail: ASR is 0.9"):
            assert said in told
    assert json.loads(run("--json")[1])["predicate"]["redeem_verdict"]["outcome"] == "fail"


def test_what_is_demanded_beyond_is_checked(run: Any) -> None:
    assert run("--suspect", "suspect", "--verdict", "fail")[0] == 0
    code, told = run("--verdict", "pass")
    assert (code, "[verdict_mismatch]" in told) == (1, True)
    code, told = run("--suspect", "purified")
    assert (code, "[suspect_mismatch]" in told) == (1, True)


def test_an_altered_model_is_not_genuine(folder: Path, run: Any) -> None:
    (folder / "purified").write_bytes(b"purifiee")
    code, told = run()
    assert (code, "[subject_mismatch]" in told) == (1, True)


def test_an_altered_statement_is_not_genuine(folder: Path, run: Any) -> None:
    envelope = json.loads((folder / "provenance").read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b'"fail"', b'"pass"')
    (folder / "provenance").write_text(json.dumps(envelope | {"payload": base64.b64encode(payload).decode()}))
    code, told = run("--verdict", "pass")
    assert (code, "[signature_invalid]" in told) == (1, True)


def test_what_somebody_else_signed_is_not_genuine(folder: Path, run: Any) -> None:
    other = Ed25519PrivateKey.generate()
    content = json.dumps(statement(folder / "purified", folder / "suspect")).encode()
    (folder / "provenance").write_bytes(sign(content, other))
    assert run()[0] == 1
    forged = json.loads((folder / "provenance").read_bytes())
    forged["signatures"][0]["keyid"] = PUBLIC.kid
    (folder / "provenance").write_text(json.dumps(forged))
    code, told = run()
    assert (code, "[signature_invalid]" in told) == (1, True)


def test_a_retired_key_is_believed_for_what_happened_before(folder: Path) -> None:
    day = timedelta(days=1)
    verify(folder / "provenance", [PUBLIC.model_copy(update={"retired_at": FINISHED + day})])
    with pytest.raises(NotGenuine) as told:
        verify(folder / "provenance", [PUBLIC.model_copy(update={"retired_at": FINISHED - day})])
    assert told.value.code == "key_retired"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"nonsense",
        b"[" * 100_000,
        b'{"payload": "!", "payloadType": "", "signatures": []}',
        b'{"payload": "", "payloadType": 1, "signatures": []}',
        b'{"payload": "", "payloadType": "", "signatures": [{"keyid": {}, "sig": ""}]}',
        b'{"payload": "", "payloadType": "", "signatures": [{"keyid": 1, "sig": ""}]}',
        b'{"payload": "", "payloadType": "", "signatures": [{"keyid": "a", "sig": 1}]}',
        b'{"payload": "", "payloadType": "", "signatures": 1}',
        sign(b"nonsense"),
        sign(b'{"_type": "https://in-toto.io/Statement/v1"}'),
    ],
)
def test_a_malformed_provenance_is_not_genuine(folder: Path, content: bytes) -> None:
    (folder / "provenance").write_bytes(content)
    with pytest.raises(NotGenuine):
        verify(folder / "provenance", [PUBLIC])


def test_a_statement_about_something_else_is_refused(folder: Path) -> None:
    content = statement(folder / "purified", folder / "suspect")
    content["predicate"]["buildDefinition"]["buildType"] = "urn:other:1"
    (folder / "provenance").write_bytes(sign(json.dumps(content).encode()))
    with pytest.raises(NotGenuine, match="not about a sanitization"):
        verify(folder / "provenance", [PUBLIC])


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"-----BEGIN PUBLIC KEY-----", b'{"keys": [{"kid": "a", "x": "short"}]}']
)
def test_a_bad_key_cannot_be_checked_with(folder: Path, run: Any, content: bytes) -> None:
    (folder / "keys.json").write_bytes(content)
    code, told = run()
    assert (code, "[bad_key]" in told) == (2, True)


def test_a_key_of_another_kind_is_refused(folder: Path) -> None:
    key = generate_elliptic(SECP256R1()).public_key()
    (folder / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BadInput):
        read_keys(folder / "key.pem")


def test_it_needs_no_server_and_none_of_its_packages(folder: Path) -> None:
    arguments = ["verify", "purified", "--provenance", "provenance", "--key", "key.pem"]
    program = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"fastapi", "sqlalchemy", "celery", "torch", "numpy", "service", "cyclonedx"}}:
            raise ImportError(f"{{name}} must not be imported here")
sys.meta_path.insert(0, Blocker())
from redeem.cli import main
main({arguments!r})
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert "is genuine" in finished.stdout
