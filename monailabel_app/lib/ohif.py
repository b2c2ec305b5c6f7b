"""OHIF's files as MONAI Label ships them, but for what asks other hosts: nothing leaves the machine."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from fastapi.responses import FileResponse, Response
from monailabel.endpoints import ohif
from monailabel.utils.others.generic import get_mime_type

from lib.errors import RequestError

__all__ = ["POLICY", "app_config", "ohif_file"]

FOLDER = Path(ohif.__file__).parent / "static" / "ohif"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # OHIF's own page, codecs and workers
        "worker-src 'self' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""Content-Security-Policy: the browser itself refuses whatever would go to another host."""

HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
ELSEWHERE = {
    ".html": re.compile(r"<link\b[^>]*\bhref=\"https?://[^>]*>"),
    ".css": re.compile(r"@import\s+url\(\s*[\"']?https?://[^)]*\)[^;]*;"),
}
"""What asks other hosts in the pages and styles: web fonts. The system's own font takes their place."""

PANEL = Path(__file__).parent / "panel"
LOADER = """
// IterMask3D: the panel with verdict, progress, refinement and saving
(function () {
  const style = document.createElement('link');
  style.rel = 'stylesheet';
  style.href = '/itermask3d/panel.css';
  const script = document.createElement('script');
  script.type = 'module';
  script.src = '/itermask3d/panel.js';
  document.head.append(style, script);
})();
"""


def app_config() -> Response:
    """MONAI Label's own configuration of OHIF, then the panel's place in it and what loads the panel."""
    headers = {"Cache-Control": "no-cache", **HEADERS}
    parts = ((FOLDER / "app-config.js").read_text(), (PANEL / "dock.js").read_text(), LOADER)
    return Response("\n".join(parts), media_type="text/javascript", headers=headers)


def ohif_file(path: str) -> Response:
    """A file of OHIF; its page for any path that is none, as OHIF has its own addresses.

    Raises:
        RequestError: with status 404 for a path that leads out of OHIF's folder.
    """
    file = (FOLDER / path).resolve()
    if FOLDER.resolve() not in (file, *file.parents):
        raise RequestError(404, f"'{path[:80]}' is no file of OHIF")
    if not file.is_file():
        file = FOLDER / "index.html"
    pattern = ELSEWHERE.get(file.suffix)
    if pattern is None:
        return FileResponse(file, media_type=get_mime_type(str(file)), headers=HEADERS)
    headers = {"Cache-Control": "no-cache", **HEADERS}
    return Response(_without_elsewhere(file, file.stat().st_mtime_ns), media_type=_kind(file), headers=headers)


@functools.lru_cache(maxsize=64)
def _without_elsewhere(file: Path, _changed: int) -> str:
    return ELSEWHERE[file.suffix].sub("", file.read_text(encoding="utf-8"))


def _kind(file: Path) -> str:
    return "text/html" if file.suffix == ".html" else "text/css"
