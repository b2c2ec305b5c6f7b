"""Drawings that nobody has saved yet: kept on the server, so that they outlive a reload of the page."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Response, UploadFile
from itermask3d.files.writing import write_atomically

from lib.errors import RequestError
from lib.keeping import disk_errors_told
from lib.results import case_name
from lib.uploads import safe_name

__all__ = ["Drafts", "add_draft_routes"]

MAX_VOXELS = 2**30
"""More than any scan that the app reads; an upload that holds more is refused before it fills the memory."""

CHUNK = 2**20


class Drafts:
    """One drawing a scan, as the viewer sent it: a byte a voxel, compressed by gzip.

    Args:
        directory: made when the first draft is kept.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def keep(self, image: str, compressed: bytes) -> int:
        """Keep a drawing in place of an earlier one, whole or not at all.

        Returns:
            Its number of voxels.

        Raises:
            RequestError: with status 422 if it cannot be read, 507 if the disk is full; an earlier draft stays.
        """
        voxels = _size(compressed)
        with disk_errors_told("the draft of the drawing was not kept, and an earlier one is as it was"):
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(compressed, self._file(image))
        return voxels

    def find(self, image: str) -> tuple[bytes, str] | None:
        """The drawing, still compressed, and when it was kept (ISO 8601); ``None`` where there is none."""
        path = self._file(image)
        try:
            compressed = path.read_bytes()
            when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None
        return compressed, when.isoformat(timespec="seconds")

    def drop(self, image: str) -> None:
        """Forget a drawing: it was saved, or is not wanted."""
        self._file(image).unlink(missing_ok=True)

    def _file(self, image: str) -> Path:
        return self.directory / f"{case_name(image)}.gz"


def add_draft_routes(router: APIRouter, drafts: Drafts, dependencies: list[Any]) -> None:
    """``GET``, ``PUT`` and ``DELETE /itermask3d/draft?image=``; plain functions, so each runs in a worker thread."""

    def find(image: str) -> Response:
        """The drawing as bytes, first axis fastest, and when it was kept in ``X-Kept``; 204 where there is none."""
        found = drafts.find(safe_name(image))
        if found is None:
            return Response(status_code=204)
        compressed, when = found
        headers = {"Content-Encoding": "gzip", "X-Kept": when, "Cache-Control": "no-store"}
        return Response(compressed, media_type="application/octet-stream", headers=headers)

    def keep(image: str, label: Annotated[UploadFile, File()]) -> dict[str, Any]:
        """Keep a drawing; the file is compressed by gzip."""
        return {"image": image, "voxels": drafts.keep(safe_name(image), label.file.read())}

    def drop(image: str) -> Response:
        """Forget a drawing."""
        drafts.drop(safe_name(image))
        return Response(status_code=204)

    for method, endpoint in (("GET", find), ("PUT", keep), ("DELETE", drop)):
        router.add_api_route(
            "/itermask3d/draft", endpoint, methods=[method], dependencies=dependencies, response_model=None
        )


def _size(compressed: bytes) -> int:
    reader, rest, size = zlib.decompressobj(16 + zlib.MAX_WBITS), compressed, 0
    try:
        while rest and not reader.eof:
            size += len(reader.decompress(rest, CHUNK))
            rest = reader.unconsumed_tail
            if size > MAX_VOXELS:
                raise RequestError(422, f"the draft has more than {MAX_VOXELS} voxels; expected a mask of a scan")
    except zlib.error as error:
        raise RequestError(422, "the draft cannot be read; expected a mask, compressed by gzip") from error
    if not reader.eof:
        raise RequestError(422, "the draft is cut off; expected a whole mask, compressed by gzip")
    return size
