"""Tokens of an issuer, which is a real little server with real keys."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from sqlalchemy import select

from redeem.access import Scope
from service import auth, oidc
from service.settings import Settings
from service.tables import AuditRow, TenantRow
from tests.service.running import Service, problem, serving, wait_until

AUDIENCE = "https://redeem.example"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


def public_keys() -> list[dict[str, Any]]:
    """As an issuer lists them, one without `alg`, and beside them what must not be used."""
    return [
        RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "RS256", "use": "sig"},
        ECAlgorithm.to_jwk(EC.public_key(), as_dict=True) | {"kid": "ES256", "alg": "ES256"},
        OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True) | {"kid": "EdDSA", "alg": "EdDSA"},
        RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "encrypting", "use": "enc"},
        {"kty": "oct", "k": encoded(b"k" * 32), "kid": "HS256", "alg": "HS256"},
        {"kty": "of the future", "kid": "new"},
    ]


def encoded(content: bytes | Any) -> str:
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Idp(ThreadingHTTPServer):
    """An issuer whose documents a test may change."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.keys = public_keys()
        self.configuration: dict[str, Any] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.asked = Counter[str]()
        self.status = 200
        self.seconds = 0.0

    def token(self, algorithm: str = "RS256", kid: str | None = "", key: Any = None, **claims: Any) -> str:
        """A good one of the tenant `acme`, but for the claims given; None leaves one out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 300, "redeem_tenant": "acme"}
        told = {name: value for name, value in (good | {"scope": "openid read"} | claims).items() if value is not None}
        header = {} if kid is None else {"kid": kid or algorithm}
        return jwt.encode(told, PRIVATE[algorithm] if key is None else key, algorithm, headers=header)

    def settings(self, data: Any, **more: Any) -> Settings:
        return Settings(data=data, oidc_issuer=self.url, oidc_audience=AUDIENCE, **more)


class _Answers(BaseHTTPRequestHandler):
    server: Idp

    def do_GET(self) -> None:
        idp = self.server
        idp.asked[self.path] += 1
        time.sleep(idp.seconds)
        documents = {"/.well-known/openid-configuration": idp.configuration, "/keys": {"keys": idp.keys}}
        self.send_response(idp.status)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps(documents[self.path]).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def issuing() -> Iterator[Idp]:
    with Idp() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def idp() -> Iterator[Idp]:
    with issuing() as server:
        yield server


@pytest.fixture(scope="module")
def steady() -> Iterator[Idp]:
    """An issuer that no test changes."""
    with issuing() as server:
        yield server


@pytest.fixture(scope="module")
def service(steady: Idp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(steady.settings(tmp_path_factory.mktemp("data"))) as running:
        running.key("acme")
        yield running


def ask(service: Service, token: str, method: str = "GET", path: str = "/v1/jobs", **more: Any) -> httpx.Response:
    return httpx.request(method, service.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=30, **more)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("kid", ["", None], ids=["names its key", "names none"])
def test_a_good_token_is_let_in(service: Service, steady: Idp, algorithm: str, kid: str | None) -> None:
    assert ask(service, steady.token(algorithm, kid)).status_code == 200


def test_several_audiences_and_clocks_that_differ_a_little_do_no_harm(service: Service, steady: Idp) -> None:
    now = int(time.time())
    for claims in ({"aud": ["other", AUDIENCE]}, {"exp": now - 10}, {"iat": now + 10, "nbf": now + 10}):
        assert ask(service, steady.token(**claims)).status_code == 200


def signed_by_the_public_key(idp: Idp) -> str:
    """HS256 with what everybody has: it is good for whoever believes the header."""
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = f"{encoded({'alg': 'HS256', 'kid': 'RS256'})}.{idp.token().split('.')[1]}"
    return f"{body}.{encoded(hmac.digest(pem, body.encode(), hashlib.sha256))}"


def bad_tokens(idp: Idp) -> dict[str, tuple[str, str]]:
    """Each with what the refusal has to say."""
    now, (head, body, signature) = int(time.time()), idp.token().split(".")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "alg none": (jwt.encode({"sub": "ann"}, None, "none", headers={"kid": "RS256"}), "RS256, ES256 or EdDSA"),
        "unsigned": (f"{head}.{body}.", "signature"),
        "HS256 by the public key": (signed_by_the_public_key(idp), "RS256, ES256 or EdDSA"),
        "HS256 by a key of the issuer": (idp.token(key=b"k" * 32, algorithm="HS256"), "RS256, ES256 or EdDSA"),
        "RS512": (idp.token(key=RSA, algorithm="RS512", kid="RS256"), "RS256, ES256 or EdDSA"),
        "another's key": (idp.token(key=other), "signature"),
        "another algorithm than the key's": (idp.token("ES256", kid="RS256"), "`kid`"),
        "a key for encryption": (idp.token(kid="encrypting"), "`kid`"),
        "unknown kid": (idp.token(kid="unknown"), "`kid`"),
        "other claims": (f"{head}.{encoded({'sub': 'eve'})}.{signature}", "signature"),
        "wrong audience": (idp.token(aud="https://other.example"), AUDIENCE),
        "wrong issuer": (idp.token(iss="https://other.example"), idp.url),
        "issuer with a slash": (idp.token(iss=f"{idp.url}/"), idp.url),
        "expired": (idp.token(exp=now - 60), "expired"),
        "not yet valid": (idp.token(nbf=now + 60), "not valid yet"),
        "issued in the future": (idp.token(iat=now + 60), "not valid yet"),
        **{f"no {claim}": (idp.token(**{claim: None}), f"`{claim}`") for claim in oidc.REQUIRED},
        "sub of many lines": (idp.token(sub="ann\nbob"), "printable"),
        "endless sub": (idp.token(sub="a" * 300), "printable"),
        "no JSON": (f"{encoded(b'no')}.{body}.{signature}", "header"),
        "no object": (f"{encoded([])}.{body}.{signature}", "header"),
        "a deep header": (f"{encoded(b'[' * 9000)}.{body}.{signature}", "header"),
        "alg of another type": (f"{encoded({'alg': ['RS256']})}.{body}.{signature}", "RS256, ES256 or EdDSA"),
    }


def test_every_bad_token_is_refused_and_not_repeated(
    service: Service, steady: Idp, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, (token, said) in bad_tokens(steady).items():
        answer = ask(service, token)
        assert said in problem(answer, 401, "invalid_token")["detail"], name
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        told = answer.text + str(answer.headers) + capfd.readouterr().err
        assert not [part for part in token.split(".") if len(part) > 8 and part in told], name


@pytest.mark.parametrize("tenant", ["nobody", "", None, 7, "ac\0me", ["acme"]])
def test_a_tenant_that_is_not_there_is_refused_and_not_made(service: Service, steady: Idp, tenant: Any) -> None:
    told = problem(ask(service, steady.token(redeem_tenant=tenant)), 403, "unknown_tenant")
    assert "`redeem_tenant`" in told["detail"]
    assert "redeem tenants create" in told["hint"]
    with service.parts.readers() as session:
        assert set(session.scalars(select(TenantRow.name))) == {"default", "acme"}


@pytest.mark.parametrize("scope", ["jobs:write uploads:write", ["jobs:write"], "", None, 5, "reads", {"read": True}])
def test_a_token_without_the_scope_may_not(service: Service, steady: Idp, scope: Any) -> None:
    answer = ask(service, steady.token(scope=scope))
    assert "`read`" in problem(answer, 403, "missing_scope")["detail"]


@pytest.mark.parametrize("scope", ["email read", ["read", "other", {}], "admin"])
def test_scopes_come_as_text_or_list_and_unknown_ones_do_no_harm(service: Service, steady: Idp, scope: Any) -> None:
    assert ask(service, steady.token(scope=scope)).status_code == 200


def test_the_operator_may_name_the_claims_otherwise(steady: Idp, tmp_path: Any) -> None:
    named = steady.settings(tmp_path, oidc_tenant_claim="https://redeem.example/tenant", oidc_scope_claim="scp")
    with serving(named) as service:
        claims = {"https://redeem.example/tenant": "default", "scp": ["read"], "redeem_tenant": None, "scope": None}
        assert ask(service, steady.token(**claims)).status_code == 200
        problem(ask(service, steady.token(redeem_tenant="default")), 403, "unknown_tenant")


def test_a_token_reaches_its_tenants_objects_and_no_others(service: Service, steady: Idp) -> None:
    theirs = service.upload("model")
    token = steady.token(scope="read uploads:write")
    problem(ask(service, token, path=f"/v1/uploads/{theirs}"), 404, "not_found")
    opened = ask(service, token, "POST", "/v1/uploads", json={"kind": "model", "filename": "m"})
    assert opened.status_code == 201
    assert ask(service, token, path=f"/v1/uploads/{opened.json()['id']}").status_code == 200
    assert service.http.get(f"/v1/uploads/{opened.json()['id']}").status_code == 404


def test_log_and_audit_name_the_subject(steady: Idp, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    token = steady.token(sub="repo:acme/models", scope="uploads:write", redeem_tenant="default")
    with serving(steady.settings(tmp_path)) as service:
        assert ask(service, token, "POST", "/v1/uploads", json={"kind": "model", "filename": "m"}).status_code == 201
        with service.parts.readers() as session:
            assert session.scalar(select(AuditRow.actor).order_by(AuditRow.seq.desc())) == "oidc:repo:acme/models"
    # The line is written after the answer; once the server has stopped it is there.
    assert '"caller": "oidc:repo:acme/models"' in capfd.readouterr().err


def test_requests_count_for_the_subject_whatever_its_token(steady: Idp, tmp_path: Any) -> None:
    with serving(steady.settings(tmp_path, requests_per_minute=3)) as service:
        tokens = [
            steady.token(sub=sub, jti=str(n), redeem_tenant="default") for sub in ("ann", "bob") for n in range(4)
        ]
        statuses = [ask(service, token).status_code for token in tokens]
    assert statuses == [200, 200, 200, 429] * 2


def test_who_sends_bad_tokens_is_told_to_wait(steady: Idp, tmp_path: Any) -> None:
    with serving(steady.settings(tmp_path, failures_per_minute=2)) as service:
        tokens = [steady.token(aud="x"), steady.token(redeem_tenant="nobody"), steady.token(aud="x")]
        assert [ask(service, token).status_code for token in tokens] == [401, 403, 429]


def test_a_token_is_not_believed_beyond_its_end(service: Service, steady: Idp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "LEEWAY", 0.0)
    monkeypatch.setattr(auth, "REMEMBERED", 3600.0)
    token = steady.token(exp=int(time.time()) + 2)
    assert ask(service, token).status_code == 200
    wait_until(lambda: ask(service, token).status_code == 401, 4)


def test_keys_are_fetched_once_and_for_all_the_strangers_once_more(idp: Idp, tmp_path: Any, monkeypatch: Any) -> None:
    with serving(idp.settings(tmp_path)) as service:
        with ThreadPoolExecutor(8) as pool:
            good = [idp.token(redeem_tenant="default", jti=str(n)) for n in range(8)]
            assert {answer.status_code for answer in pool.map(lambda token: ask(service, token), good)} == {200}
            assert idp.asked["/keys"] == 1
            monkeypatch.setattr(oidc, "AGAIN", 0.0)
            problem(ask(service, idp.token(kid="stranger")), 401, "invalid_token")
            monkeypatch.setattr(oidc, "AGAIN", 30.0)
            strange = [idp.token(kid=f"stranger-{n}") for n in range(16)]
            assert {answer.status_code for answer in pool.map(lambda token: ask(service, token), strange)} == {401}
        assert idp.asked == {"/.well-known/openid-configuration": 2, "/keys": 2}


def test_a_rotated_key_is_found_and_the_old_one_is_good_no_longer(idp: Idp, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(oidc, "AGAIN", 0.0)
    monkeypatch.setattr(auth, "REMEMBERED", 0.0)
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with serving(idp.settings(tmp_path)) as service:
        assert ask(service, idp.token(redeem_tenant="default")).status_code == 200
        idp.keys = [RSAAlgorithm.to_jwk(new.public_key(), as_dict=True) | {"kid": "new"}]
        assert ask(service, idp.token(redeem_tenant="default", kid="new", key=new)).status_code == 200
        problem(ask(service, idp.token(redeem_tenant="default")), 401, "invalid_token")


def test_old_keys_are_fetched_anew(idp: Idp, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(oidc, "KEPT", 0.2)
    monkeypatch.setattr(oidc, "RETRY", 0.0)
    monkeypatch.setattr(auth, "REMEMBERED", 0.0)
    with serving(idp.settings(tmp_path)) as service:
        token = idp.token(redeem_tenant="default")
        assert ask(service, token).status_code == 200
        idp.keys = idp.keys[1:]
        wait_until(lambda: ask(service, token).status_code == 401, 3)


def ruin(idp: Idp, how: str) -> None:
    match how:
        case "status":
            idp.status = 500
        case "redirect":
            idp.status = 302
        case "slow":
            idp.seconds = 1.0
        case "large":
            idp.keys = [*public_keys(), {"kty": "x" * oidc.LARGEST}]
        case "no keys":
            idp.keys = []
        case "another's":
            idp.configuration["issuer"] = "https://other.example"
        case "a file":
            idp.configuration["jwks_uri"] = "file:///etc/passwd"
        case "no object":
            idp.configuration = []  # type: ignore[assignment]


@pytest.mark.parametrize("how", ["status", "redirect", "slow", "large", "no keys", "another's", "a file", "no object"])
def test_an_issuer_that_is_down_stops_tokens_until_it_is_back_and_never_keys(
    idp: Idp, tmp_path: Any, monkeypatch: Any, how: str
) -> None:
    monkeypatch.setattr(oidc, "PATIENCE", 0.6)
    ruin(idp, how)
    with serving(idp.settings(tmp_path)) as service:
        for _ in range(3):
            answer = ask(service, idp.token(redeem_tenant="default"))
            problem(answer, 503, "issuer_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        assert idp.asked["/.well-known/openid-configuration"] == 1
        assert service.http.get("/v1/jobs").status_code == 200
        monkeypatch.setattr(oidc, "RETRY", 0.0)
        monkeypatch.setattr(oidc, "PATIENCE", 30.0)
        idp.status, idp.seconds, idp.keys = 200, 0.0, public_keys()
        idp.configuration = {"issuer": idp.url, "jwks_uri": f"{idp.url}/keys"}
        assert ask(service, idp.token(redeem_tenant="default")).status_code == 200


def test_an_issuer_that_goes_down_leaves_the_keys_that_it_gave(idp: Idp, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(oidc, "AGAIN", 0.0)
    monkeypatch.setattr(auth, "REMEMBERED", 0.0)
    with serving(idp.settings(tmp_path)) as service:
        token = idp.token(redeem_tenant="default")
        assert ask(service, token).status_code == 200
        idp.status = 500
        problem(ask(service, idp.token(kid="perhaps new")), 503, "issuer_unavailable")
        assert ask(service, token).status_code == 200


def test_keys_of_an_https_issuer_come_by_https(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"issuer": "https://idp.example", "jwks_uri": "http://idp.example/keys"}
    asked = []
    monkeypatch.setattr(oidc, "_get", lambda http, url: asked.append(url) or json.dumps(told))
    with pytest.raises(ValueError, match="https"):
        oidc._fetch("https://idp.example")
    assert asked == ["https://idp.example/.well-known/openid-configuration"]


def test_without_an_issuer_a_token_is_an_unknown_key(steady: Idp, tmp_path: Any) -> None:
    with serving(Settings(data=tmp_path)) as service:
        problem(ask(service, steady.token()), 401, "unauthorized")


def test_api_keys_work_beside_tokens(service: Service) -> None:
    assert ask(service, service.key(scopes=[Scope.read])).status_code == 200
    problem(ask(service, "redeem_no"), 401, "unauthorized")


@pytest.mark.parametrize(
    "url", ["http://idp.example", "ftp://localhost", "idp.example", "https://", "http://127.0.0.1.evil.example"]
)
def test_an_issuer_has_to_be_behind_https_or_on_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        Settings(oidc_issuer=url, oidc_audience=AUDIENCE)


def test_an_issuer_needs_an_audience() -> None:
    with pytest.raises(ValueError, match="REDEEM_OIDC_AUDIENCE"):
        Settings(oidc_issuer="https://idp.example")
