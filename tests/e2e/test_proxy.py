"""The example of a reverse proxy: nothing without a login, nothing unencrypted, everything else as without it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "proxy" / "nginx.conf"
LOGIN = ("reader", "a pass:word")


class Echo(BaseHTTPRequestHandler):
    """Answers with what arrived: path, headers, length of the body; redirects as the server behind the proxy does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "length": len(body)}
        content = json.dumps(found).encode()
        self.send_response(307 if self.path == "/info" else 200)
        if self.path == "/info":
            self.send_header("Location", f"http://{self.headers['Host']}/info/")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its two addresses and the certificate to trust."""

    http: str
    https: str
    certificate: Path

    def ask(self, path: str, *, method: str = "GET", login: tuple[str, str] | None = LOGIN, **more: Any) -> Any:
        return requests.request(
            method, self.https + path, auth=login, verify=str(self.certificate), timeout=120, **more
        )


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """Port of a server that echoes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def proxied(services: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Proxy]]:
    """Starts nginx with the example in front of a port."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    nginx, openssl = shutil.which("nginx", path=search), shutil.which("openssl")
    if not nginx or not openssl:
        pytest.skip("this test needs nginx and openssl (sudo apt install nginx openssl)")
    with services.running() as started:

        def start_proxy(port: int) -> Proxy:
            folder = tmp_path_factory.mktemp("nginx")
            http, https = services.free_port(), services.free_port()
            write_secrets(folder, openssl)
            config = write_config(folder, {"80": http, "443": https, "8000": port})
            check = [nginx, "-p", folder, "-e", folder / "error.log", "-c", config, "-t"]
            subprocess.run(check, check=True, capture_output=True, timeout=60)
            command = [*check[:-1], "-g", "daemon off;"]
            service = services.Service.start("nginx", command, url=f"http://127.0.0.1:{http}", log=folder / "log")
            started.append(service)
            proxy = Proxy(service.url, f"https://127.0.0.1:{https}", folder / "cert.pem")
            wait_for(service, services)
            return proxy

        yield start_proxy


def wait_for(service: Any, services: ModuleType) -> None:
    """Wait until nginx accepts connections; any answer will do."""
    for _ in range(services.TRIES):
        try:
            requests.get(service.url, timeout=5, allow_redirects=False)
            return
        except requests.ConnectionError:
            try:
                service.process.wait(timeout=services.TRY_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"nginx ended: {service.log.read_text()}")


def write_secrets(folder: Path, openssl: str) -> None:
    """A certificate for 127.0.0.1 and a file with one login, made as the documentation says."""
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    hashed = subprocess.run(
        [openssl, "passwd", "-apr1", "-stdin"], input=LOGIN[1], text=True, check=True, capture_output=True, timeout=60
    )
    (folder / "users").write_text(f"{LOGIN[0]}:{hashed.stdout}")


def write_config(folder: Path, ports: dict[str, int]) -> Path:
    """The example as it is, but for ports, names and paths."""
    site = EXAMPLE.read_text()
    site = re.sub(r"\n\s*listen \[::\].*", "", site)  # a machine without IPv6 could not start it
    site = site.replace("/etc/nginx/itermask3d", str(folder)).replace("itermask3d.example.org", "127.0.0.1")
    site = site.replace("listen 80;", f"listen 127.0.0.1:{ports['80']};")
    site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{ports['443']} ssl")
    site = site.replace("127.0.0.1:8000", f"127.0.0.1:{ports['8000']}")
    (folder / "site.conf").write_text(site)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}worker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/site.conf;\n}}\n"
    )
    return folder / "nginx.conf"


@pytest.fixture(scope="module")
def proxy(proxied: Callable[[int], Proxy], echo: int) -> Proxy:
    return proxied(echo)


@pytest.mark.parametrize("path", ["/", "/ohif/", "/info/", "/proxy/dicom/studies", "/itermask3d/status", "/docs"])
@pytest.mark.parametrize("login", [None, ("reader", "wrong"), ("other", LOGIN[1])])
def test_nothing_is_seen_without_a_login(proxy: Proxy, path: str, login: tuple[str, str] | None) -> None:
    answer = proxy.ask(path, login=login)
    assert answer.status_code == 401
    assert "path" not in answer.text


def test_login_opens_the_door_and_ends_there(proxy: Proxy) -> None:
    answer = proxy.ask("/proxy/dicom/studies?limit=1")
    assert answer.status_code == 200
    found = answer.json()
    assert found["path"] == "/proxy/dicom/studies?limit=1"
    assert "authorization" not in found["headers"]
    assert found["headers"]["host"].startswith("127.0.0.1:")
    assert "max-age" in answer.headers["Strict-Transport-Security"]


def test_the_server_sees_its_own_machine_alone(proxy: Proxy) -> None:
    found = proxy.ask("/info/", headers={"X-Forwarded-For": "192.0.2.7"}, allow_redirects=False).json()
    assert "x-forwarded-for" not in found["headers"]


def test_plain_http_is_sent_to_https(proxy: Proxy) -> None:
    answer = requests.get(proxy.http + "/ohif/?a=1", auth=LOGIN, allow_redirects=False, timeout=60)
    assert answer.status_code == 301
    assert answer.headers["Location"] == "https://127.0.0.1/ohif/?a=1"


def test_redirects_of_the_server_stay_behind_the_door(proxy: Proxy) -> None:
    answer = proxy.ask("/info", allow_redirects=False)
    assert answer.headers["Location"] == f"{proxy.https}/info/"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_labels_of_large_scans_pass(proxy: Proxy, method: str) -> None:
    size = 256 * 2**20
    answer = proxy.ask("/itermask3d/save?image=1.2", method=method, data=bytes(size))
    assert answer.status_code == 200
    assert answer.json()["length"] == size


def test_a_page_of_the_proxy_may_send(proxy: Proxy) -> None:
    answer = proxy.ask("/infer/itermask3d", method="POST", headers={"Origin": proxy.https})
    assert answer.status_code == 200
    assert "origin" not in answer.json()["headers"]


@pytest.mark.parametrize("origin", ["https://example.com", "null", "http://127.0.0.1:9", "https://127.0.0.1"])
def test_page_of_another_site_may_not(proxy: Proxy, origin: str) -> None:
    assert proxy.ask("/infer/itermask3d", method="POST", headers={"Origin": origin}).status_code == 403


def test_a_run_of_an_hour_is_waited_for() -> None:
    seconds = [int(value) for value in re.findall(r"proxy_(?:read|send)_timeout\s+(\d+)s;", EXAMPLE.read_text())]
    assert len(seconds) == 2
    assert min(seconds) >= 3600


def test_the_server_works_behind_it(proxied: Callable[[int], Proxy], start: Callable[..., Any]) -> None:
    server = start()
    proxy = proxied(int(server.url.rsplit(":", 1)[1]))
    assert proxy.ask("/info/").json()["name"] == "IterMask3D"
    assert "root" in proxy.ask("/ohif/").text
    assert proxy.ask("/proxy/dicom/studies").status_code in (200, 204)
    assert proxy.ask("/itermask3d/status", headers={"Origin": proxy.https}).status_code == 200
    assert proxy.ask("/info/", login=None).status_code == 401
