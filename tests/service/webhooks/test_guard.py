"""Where webhooks may go: by the address, whatever the name says, and however often it says something else."""

from __future__ import annotations

import socket
import ssl
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service.webhooks import guard, sending
from service.webhooks.guard import Forbidden, check_url, judge
from tests.certificates import certified
from tests.service.webhooks.sink import listening, slow_body, slow_head, status

LOOPBACK = [ip_network("127.0.0.1/32")]
SECRET = "whsec_" + "A" * 43 + "="


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *(
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.192",
            "168.63.129.16",
            "192.88.99.1",
            "192.0.2.1",
            "198.18.0.1",
            "240.0.0.1",
        ),
        *("224.0.0.1", "239.255.255.255", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1"),
        *(
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001:0:7f00:1::",
            "3fff::1",
            "5f00::1",
        ),
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(Forbidden):
        judge([ip_address(address)], True, [])
    with pytest.raises(Forbidden):  # nor in company
        judge([ip_address("1.1.1.1"), ip_address(address)], True, [])


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_let_through_with_tls_only(address: str) -> None:
    judge([ip_address(address)], True, [])
    with pytest.raises(Forbidden, match="https"):
        judge([ip_address(address)], False, LOOPBACK)


def test_what_the_operator_allows_is_let_through() -> None:
    judge([ip_address("10.1.2.3"), ip_address("fd00::1")], False, [ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
    with pytest.raises(Forbidden):
        judge([ip_address("11.1.2.3")], False, [ip_network("10.0.0.0/8")])
    with pytest.raises(Forbidden):
        judge([ip_address("::ffff:11.0.0.1")], False, [ip_network("10.0.0.0/8")])


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "ftp://example.com/", "https://", "https:///path", "https://user:pass@example.com/"),
        *("https://user@example.com/", "https://example.com:0/", "https://example.com:99999/", "https://exämple.com/"),
        *("https://example.com/#here", "https://127.0.0.1/", "https://[::1]/", "https://[fe80::1%25eth0]/"),
        *("https://169.254.169.254/latest/meta-data/", "https://P]i"),
    ],
)
def test_an_url_that_can_only_be_wrong_is_refused_early(url: str) -> None:
    with pytest.raises(Forbidden):
        check_url(url, [])


def test_http_is_for_allowed_networks() -> None:
    check_url("https://example.com:8443/hook?x=1", [])
    check_url("http://127.0.0.1:8080/", LOOPBACK)
    check_url("http://ci.internal/", LOOPBACK)  # its address is judged when it is known
    with pytest.raises(Forbidden):
        check_url("http://127.0.0.2/", LOOPBACK)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0"])
def test_no_spelling_of_this_machine_is_reached(host: str) -> None:
    with listening(status(200)) as sink:
        answer = sending.post(f"http://{host}:{sink.port}/", "id", "{}", [SECRET], [ip_network("192.0.2.0/24")], 2)
    assert not answer.good
    assert sink.got == []


def name_server(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Resolves every name to the next of the answers, and then to the last; the list has what was asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host[0].isdigit():
            return list(real(host, port, *_, **__))
        asked.append(host)
        address = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(guard.socket, "getaddrinfo", resolve)
    return asked


def test_a_name_is_resolved_once_and_the_address_judged_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rebinding name server answers well while it is asked for judgement, and otherwise afterwards."""
    real = socket.create_connection
    reached: list[Any] = []
    monkeypatch.setattr(
        socket, "create_connection", lambda address, *a, **k: reached.append(address) or real(address, *a, **k)
    )
    with listening(status(200)) as good, listening(status(200), host="127.0.0.2", port=good.port) as inner:
        asked = name_server(monkeypatch, "127.0.0.1", "127.0.0.2")
        answer = sending.post(f"http://rebind.example:{good.port}/", "id", "{}", [SECRET], LOOPBACK, 2)
        assert answer.status == 200
        assert (len(good.got), len(inner.got), asked) == (1, 0, ["rebind.example"])
        assert good.got[0][0]["host"] == f"rebind.example:{good.port}"
        assert reached == [("127.0.0.1", good.port)]  # and no name
        answer = sending.post(f"http://rebind.example:{good.port}/", "id", "{}", [SECRET], LOOPBACK, 2)
    assert (answer.status, answer.error) == (None, "forbidden: its address is not a public one")
    assert len(inner.got) == 0


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's context for hooks.example, and the file that makes it trusted."""
    return certified(x509.DNSName("hooks.example"), tmp_path_factory.mktemp("tls"))


def test_tls_is_of_the_name_though_the_connection_is_to_the_address(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, Path]
) -> None:
    context, trusted = tls
    named: list[str | None] = []
    context.sni_callback = lambda socket, name, context: named.append(name)
    name_server(monkeypatch, "127.0.0.1")
    with listening(status(200), tls=context) as sink:
        url = f"https://hooks.example:{sink.port}/hook"
        untrusted = sending.post(url, "id", "{}", [SECRET], LOOPBACK, 2)
        assert untrusted.status is None
        assert "certificate" in (untrusted.error or "").lower()
        monkeypatch.setattr(sending, "_ssl_context", lambda: ssl.create_default_context(cafile=str(trusted)))
        assert sending.post(url, "id", "{}", [SECRET], LOOPBACK, 2).status == 200
        other = sending.post(url.replace("hooks", "other"), "id", "{}", [SECRET], LOOPBACK, 2)
        assert "certificate" in (other.error or "").lower()
    assert (len(sink.got), named) == (1, ["hooks.example", "hooks.example", "other.example"])
    assert sink.got[0][0]["host"] == f"hooks.example:{sink.port}"


def test_no_redirect_is_followed() -> None:
    with listening(status(200)) as elsewhere, listening(status(302, Location=elsewhere.url)) as sink:
        answer = sending.post(sink.url, "id", "{}", [SECRET], LOOPBACK, 2)
    assert (answer.status, answer.good, elsewhere.got) == (302, False, [])


def test_a_slow_body_is_not_waited_for_and_a_slow_answer_not_for_ever() -> None:
    with listening(slow_body, slow_head) as sink:
        began = time.monotonic()
        assert sending.post(sink.url, "id", "{}", [SECRET], LOOPBACK, 1).good
        assert time.monotonic() - began < 0.9
        began = time.monotonic()
        answer = sending.post(sink.url, "id", "{}", [SECRET], LOOPBACK, 1)
        assert (answer.status, answer.error) == (None, "there was no answer within 1 s")
        assert time.monotonic() - began < 2


def test_an_endless_head_is_not_read_to_its_end() -> None:
    def endless(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 2**20)

    with listening(endless) as sink:
        answer = sending.post(sink.url, "id", "{}", [SECRET], LOOPBACK, 2)
    assert not answer.good
    assert "RemoteProtocolError" in (answer.error or "")


def test_nobody_there_is_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert "ConnectError" in (sending.post(f"http://127.0.0.1:{port}/", "id", "{}", [SECRET], LOOPBACK, 2).error or "")

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(guard.socket, "getaddrinfo", unknown)
    answer = sending.post("https://nowhere.example/", "id", "{}", [SECRET], LOOPBACK, 2)
    assert "not resolved" in (answer.error or "")
