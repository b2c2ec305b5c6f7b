"""OHIF's way to the PACS: the query goes along, a silent PACS blocks nobody, and only DICOMweb is asked."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import requests
from fastapi import Request, Response
from monailabel.config import settings
from requests.adapters import HTTPAdapter

from lib.errors import RequestError

__all__ = ["PacsProxy"]

logger = logging.getLogger(__name__)

AT_ONCE = 12
"""Requests to the PACS at a time; more wait their turn without holding a thread of the server."""

CONNECT_S, SILENCE_S = 5, 60
PASSED_ON = ("accept", "content-type")
PASSED_BACK = ("content-type", "content-encoding", "cache-control", "etag", "warning")


class PacsProxy:
    """Passes DICOMweb requests of the viewer on to the PACS.

    MONAI Label's own proxy drops the query, so that a viewer of one patient is told of all, and waits for the PACS in
    the thread that answers everybody.

    Args:
        url: the PACS's DICOMweb address; empty where the scans lie in a folder.
        session: to ask with; it carries the login.
    """

    def __init__(self, url: str, session: requests.Session | None = None) -> None:
        self.url = url.rstrip("/")
        self.session = session or _session()
        self._limiter: anyio.CapacityLimiter | None = None

    async def __call__(self, request: Request, path: str) -> Response:
        """Answer ``/proxy/dicom/{path}``, ``path`` with or without ``qido``, ``wado`` or ``stow`` in front.

        Raises:
            RequestError: with status 404 without a PACS or for a path that leaves DICOMweb, 503 if it does not answer.
        """
        if not self.url:
            raise RequestError(404, "the scans lie in a folder; there is no PACS to ask")
        if any(part in ("..", ".") for part in path.split("/")):
            raise RequestError(404, f"'{path[:80]}' is no path of DICOMweb")
        self._limiter = self._limiter or anyio.CapacityLimiter(AT_ONCE)
        asked = {
            "url": f"{self.url}/{_with_prefix(path)}",
            "params": list(request.query_params.multi_items()),
            "headers": {name: request.headers[name] for name in PASSED_ON if name in request.headers},
            "data": await request.body() if request.method == "POST" else None,
        }
        return await anyio.to_thread.run_sync(self._ask, request.method, asked, limiter=self._limiter)

    def _ask(self, method: str, asked: dict[str, Any]) -> Response:
        try:
            with self.session.request(method, **asked, stream=True, timeout=(CONNECT_S, SILENCE_S)) as answer:
                content = answer.raw.read()
        except requests.RequestException as error:
            raise RequestError(503, f"the PACS does not answer ({type(error).__name__})") from error
        headers = {name: answer.headers[name] for name in PASSED_BACK if name in answer.headers}
        return Response(content, status_code=answer.status_code, headers=headers)


def _with_prefix(path: str) -> str:
    """The PACS's path: the kind of request in front is replaced by the prefix that the settings have for it."""
    kind, _, rest = path.partition("/")
    prefixes = {
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    if kind not in prefixes:
        return path
    prefix = prefixes["wado" if kind == "qido" and rest.endswith("metadata") else kind]
    return f"{prefix}/{rest}" if prefix else rest


def _session() -> requests.Session:
    session = requests.Session()
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    if user and password:
        session.auth = (user, password)
    session.trust_env = False  # a proxy of the environment is not asked for patients
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=AT_ONCE, pool_maxsize=AT_ONCE))
    return session
