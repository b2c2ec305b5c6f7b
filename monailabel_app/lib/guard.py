"""What every request passes: the guard of the machine's border, a check of names, and errors told as sentences."""

from __future__ import annotations

import ipaddress
import logging
import re
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from itermask3d.files.scans import ScanError
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.errors import RequestError
from lib.keeping import NO_SPACE

__all__ = ["HANDLED", "LoopbackGuard", "NameCheck", "answer_error", "describe_error"]

logger = logging.getLogger(__name__)

HANDLED = (RequestError, MONAILabelException, ScanError, RequestValidationError, Exception)
"""Exceptions that :func:`answer_error` answers; the last catches whatever is left."""

UPLOAD = re.compile(r"'?[^\s'\"]*itermask3d_[a-z0-9_]{8}(?:\.\w+)+'?")
"""Our temporary name for a file that came with a request, which says nothing to anybody."""

CHECKED = {"train": "trainers", "scoring": "scoring", "activelearning": "strategies", "batch/infer": "models"}
"""MONAI Label's routes that take a name, and where ``info`` lists the names."""


class LoopbackGuard:
    """Refuse what does not come from this machine: other hosts, and pages of other sites in this machine's browser.

    MONAI Label listens on all interfaces and lets pages of any origin read its answers; both would hand out patients'
    images. The names in ``Host`` and ``Origin`` are checked as well, as a page can point its own name at 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, *, remote: bool) -> None:
        self.app = app
        self.remote = remote

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] != "http" or self.remote or _is_local(scope):
            await self.app(scope, receive, send)
            return
        logger.warning("refused a request from %s to %s", scope.get("client"), scope.get("path"))
        sentence = (
            "This server answers only to its own machine, under the name 127.0.0.1 or localhost; "
            "start it with '--conf remote true', behind a proxy with TLS and a login, to open it to others."
        )
        await JSONResponse({"detail": sentence}, status_code=403)(scope, receive, send)


class NameCheck:
    """Answer 404 where a request names a trainer, scoring method, strategy or model that the app does not have.

    MONAI Label starts a background process for it, which fails out of sight, or answers 500.
    """

    def __init__(self, app: ASGIApp, *, instance: Any) -> None:
        self.app = app
        self.instance = instance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 404."""
        match = re.fullmatch(f"/({'|'.join(CHECKED)})/([^/]+)", scope.get("path", ""))
        if scope["type"] == "http" and scope["method"] == "POST" and match:
            known = list((await run_in_threadpool(self.instance.info)).get(CHECKED[match[1]], {}))
            if match[2] not in known:
                sentence = f"There is no '{match[2]}' for /{match[1]}; this app has: {', '.join(known) or 'none'}."
                await JSONResponse({"detail": sentence}, status_code=404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_local(scope: Scope) -> bool:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"host", b"origin")}
    names = [urlsplit(f"//{headers[b'host']}").hostname] if b"host" in headers else []
    if b"origin" in headers:
        names.append(urlsplit(headers[b"origin"]).hostname)
    if scope.get("client"):  # a socket file has none
        names.append(scope["client"][0])
    return all(_is_loopback(name) for name in names)


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Turn an exception into one sentence for the person and a line in the log."""
    status, sentence = describe_error(error)
    where = f"{request.method} {request.url.path}"
    if status >= 500 and not isinstance(error, RequestError):
        logger.error("%s failed", where, exc_info=error)
    else:
        logger.warning("%s: %d, %s", where, status, sentence)
    return JSONResponse({"detail": sentence}, status_code=status)


def describe_error(error: Exception) -> tuple[int, str]:
    """Status and sentence of an exception; names that only this server knows are left out."""
    status, sentence = _describe(error)
    return status, UPLOAD.sub("the upload", sentence)


def _describe(error: Exception) -> tuple[int, str]:
    if isinstance(error, RequestError):
        return error.status, error.message
    if isinstance(error, MONAILabelException):
        not_found = error.error in (MONAILabelError.INVALID_INPUT, MONAILabelError.APP_ERROR)
        return 404 if not_found else 500, str(error.msg)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return 507, "The disk is full; nothing that was kept before is lost. Make room and try again."
    if isinstance(error, ScanError):
        return 422, str(error)
    if isinstance(error, RequestValidationError):
        parts = [f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors()]
        return 422, "The request is incomplete or unreadable: " + "; ".join(parts)
    first = (str(error).splitlines() or [""])[0][:300]
    return 500, f"The server failed unexpectedly ({type(error).__name__}: {first}); its log says more."
