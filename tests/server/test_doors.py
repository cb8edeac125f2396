"""Another port for operators, HTTPS, and pages of other origins."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tenfold.core.errors import ConfigError
from tenfold.server.config import Address, ServerConfig
from tenfold.server.tls import Tls
from tests.server.conftest import in_time
from tests.server.fakes import FakeEngine

Ask = Callable[..., httpx.Response]
Live = Callable[..., Any]
ADMIN = Address("127.0.0.1", 0)
OPERATORS = ("/metrics", "/debug/requests", "/debug/steps", "/debug/machine")


def test_operators_have_a_port_of_their_own(live: Live) -> None:
    with live(FakeEngine(), admin=ADMIN, api_keys=("one", "two")) as server:
        for key in ("one", "two"):
            headers = {"authorization": f"Bearer {key}", "x-request-id": f"by-{key}"}
            answer = httpx.post(server.url + "/v1/completions", json={"prompt": "x"}, headers=headers)
            assert answer.status_code == 200
            for path in OPERATORS:
                assert httpx.get(server.url + path, headers=headers).status_code == 404
        listed = in_time(
            lambda: httpx.get(server.admin + "/debug/requests").json()["data"], lambda data: len(data) == 2
        )
        assert len(listed) == 2  # of all tenants
        for path in (*OPERATORS, "/health", "/debug/requests/by-one", "/debug/requests/by-two"):
            assert httpx.get(server.admin + path).status_code == 200, path
        assert httpx.get(server.admin + "/debug/requests/by-three").status_code == 404
        assert httpx.post(server.admin + "/v1/completions", json={"prompt": "x"}).status_code == 404
        paths = httpx.get(server.url + "/openapi.json").json()["paths"]
        assert "/v1/completions" in paths
        assert not [path for path in paths if path.startswith(("/debug", "/metrics"))]


def test_without_it_they_ask_where_all_do(ask: Ask) -> None:
    for path in OPERATORS:
        assert ask("GET", path).status_code == 200
    assert "/metrics" in ask("GET", "/openapi.json").json()["paths"]


def issue(folder: Path, authority: trustme.CA) -> tuple[Path, Path]:
    issued = authority.issue_cert("127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return cert, key


def test_https_and_another_certificate_while_it_runs(live: Live, tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()

    def trusts(authority: trustme.CA, url: str) -> bool:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        try:
            return httpx.get(url + "/health", verify=context).status_code == 200
        except httpx.ConnectError:
            return False

    with live(FakeEngine(), tls=issue(tmp_path, first)) as server:
        assert server.url.startswith("https://")
        assert trusts(first, server.url)
        assert not trusts(second, server.url)
        with pytest.raises(httpx.HTTPError):
            httpx.get(server.url.replace("https", "http") + "/health")
        issue(tmp_path, second)
        server.doors.tls.reload()
        assert trusts(second, server.url)
        (tmp_path / "key.pem").write_text("no key")
        with pytest.raises(ConfigError):
            server.doors.tls.reload()
        assert trusts(second, server.url)


def test_certificates_that_do_not_do(tmp_path: Path) -> None:
    cert, key = issue(tmp_path, trustme.CA())
    with pytest.raises(ConfigError, match=r"cannot read .*--tls-cert"):
        Tls(tmp_path / "none", key)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="no certificate with its key"):
        Tls(cert, issue(other, trustme.CA())[1])
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(ConfigError):
        Tls(cert, key)


def test_pages_of_other_origins_get_nothing_unless_they_may(ask: Ask) -> None:
    page = {"origin": "https://chat.example.com"}
    wants = {**page, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert "access-control-allow-origin" not in ask("GET", "/v1/models", headers=page).headers
    assert ask("OPTIONS", "/v1/completions", headers=wants).status_code == 405
    settings = {"cors_origins": ("https://chat.example.com",), "api_keys": ("k",)}
    given = ask("OPTIONS", "/v1/completions", headers=wants, settings=settings)
    assert given.status_code == 200
    assert given.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert "authorization" in given.headers["access-control-allow-headers"]
    answer = ask("GET", "/v1/models", headers={**page, "authorization": "Bearer k"}, settings=settings)
    assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    elsewhere = {**wants, "origin": "https://other.example.com"}
    assert ask("OPTIONS", "/v1/completions", headers=elsewhere, settings=settings).status_code == 400


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cors_origins": ("chat.example.com",)}, "--cors-origin"),
        ({"cors_origins": ("https://a.example/path",)}, "--cors-origin"),
        ({"head_limit": 10}, "1024"),
        ({"head_timeout": 0.0}, "--head-timeout"),
        ({"connections": 0}, "connections"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ServerConfig(names=("m",), **settings)


@pytest.mark.parametrize(
    ("host", "keys", "exposed"),
    [
        ("127.0.0.1", (), False),
        ("::1", (), False),
        ("localhost", (), False),
        ("0.0.0.0", (), True),
        ("10.0.0.7", (), True),
        ("serving.example.com", (), True),
        ("0.0.0.0", ("k",), False),
    ],
)
def test_who_may_reach_it_without_a_key(host: str, keys: tuple[str, ...], exposed: bool) -> None:
    assert ServerConfig(names=("m",), host=host, api_keys=keys).exposed is exposed
    assert ServerConfig(names=("m",)).host == "127.0.0.1"


def test_no_name_of_a_model_is_a_path(ask: Ask) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "m/%2e%2e/x", "m\\..\\x", "m%00"):
        assert ask("GET", f"/v1/models/{name}").status_code == 404
        assert ask("POST", "/v1/completions", json={"prompt": "x", "model": name}).status_code == 404
