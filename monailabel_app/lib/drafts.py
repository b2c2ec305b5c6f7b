"""Drawings that nobody has saved yet: kept on the server, so that they outlive a reload of the page."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import APIRouter, File, Response, UploadFile
from itermask3d.files.writing import write_atomically

from lib.errors import RequestError
from lib.keeping import disk_errors_told
from lib.results import case_name
from lib.uploads import safe_name

__all__ = ["Drafts", "Moment", "add_draft_routes"]

MAX_VOXELS = 2**30
"""More than any scan that the app reads; an upload that holds more is refused before it fills the memory."""

CHUNK = 2**20
LARGEST_BYTES = 5
"""Of one number, seven bits a byte."""


class Moment(NamedTuple):
    """When a page sent something: what it sends later has a higher step, in whatever order it arrives."""

    page: str
    step: int


class Drafts:
    """One drawing a scan: a byte a voxel, kept compressed by gzip.

    Args:
        directory: made when the first draft is kept.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._last: dict[str, Moment] = {}
        self._lock = Lock()

    def keep(self, image: str, sent: bytes, moment: Moment | None = None) -> int:
        """Keep a drawing in place of an earlier one, whole or not at all; nothing where the page has sent a later one.

        Args:
            image: what the datastore calls the scan.
            sent: the drawing as runs: its number of voxels, the number of runs, then for each run how many voxels
                lie between its start and the start of the run before (at first: the first voxel), and its value, which
                holds to the next run; voxels before the first run are 0. Each number has seven bits a byte, the lowest
                first, and the eighth is set where more follow.
            moment: when it was sent; without one it is the latest.

        Returns:
            Its number of voxels.

        Raises:
            RequestError: with status 422 if it cannot be read, 507 if the disk is full; an earlier draft stays.
        """
        starts, values = _runs_of(sent)
        compressed = b"".join(_compressed(starts, values))
        with self._lock:
            if self._is_latest(image, moment):
                with disk_errors_told("the draft of the drawing was not kept, and an earlier one is as it was"):
                    self.directory.mkdir(parents=True, exist_ok=True)
                    write_atomically(compressed, self._file(image))
        return starts[-1]

    def find(self, image: str) -> tuple[bytes, str] | None:
        """The drawing, compressed, and when it was kept (ISO 8601); ``None`` where there is none."""
        path = self._file(image)
        try:
            compressed = path.read_bytes()
            when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None
        return compressed, when.isoformat(timespec="seconds")

    def drop(self, image: str, moment: Moment | None = None) -> None:
        """Forget a drawing: it was saved, or is not wanted; one that the page has sent later stays."""
        with self._lock:
            if self._is_latest(image, moment):
                self._file(image).unlink(missing_ok=True)

    def _is_latest(self, image: str, moment: Moment | None) -> bool:
        last = self._last.get(image)
        if moment is None:
            return True
        if last is not None and last.page == moment.page and last.step > moment.step:
            return False
        self._last[image] = moment
        return True

    def _file(self, image: str) -> Path:
        return self.directory / f"{case_name(image)}.gz"


def add_draft_routes(router: APIRouter, drafts: Drafts, dependencies: list[Any]) -> None:
    """``GET``, ``PUT`` and ``DELETE /itermask3d/draft?image=``; plain functions, so each runs in a worker thread.

    A page names itself and numbers its steps, so that of two requests on their way the later counts.
    """

    def find(image: str) -> Response:
        """The drawing as bytes, first axis fastest, and when it was kept in ``X-Kept``; 204 where there is none."""
        found = drafts.find(safe_name(image))
        if found is None:
            return Response(status_code=204)
        compressed, when = found
        headers = {"Content-Encoding": "gzip", "X-Kept": when, "Cache-Control": "no-store"}
        return Response(compressed, media_type="application/octet-stream", headers=headers)

    def keep(image: str, label: Annotated[UploadFile, File()], page: str = "", step: int = 0) -> dict[str, Any]:
        """Keep a drawing; the file holds it as runs, first axis fastest, as :meth:`Drafts.keep` describes."""
        return {"image": image, "voxels": drafts.keep(safe_name(image), label.file.read(), _moment(page, step))}

    def drop(image: str, page: str = "", step: int = 0) -> Response:
        """Forget a drawing."""
        drafts.drop(safe_name(image), _moment(page, step))
        return Response(status_code=204)

    for method, endpoint in (("GET", find), ("PUT", keep), ("DELETE", drop)):
        router.add_api_route(
            "/itermask3d/draft", endpoint, methods=[method], dependencies=dependencies, response_model=None
        )


def _moment(page: str, step: int) -> Moment | None:
    return Moment(page, step) if page else None


def _runs_of(sent: bytes) -> tuple[list[int], list[int]]:
    """Where each run starts, the end of all as the last, and the value of each."""
    numbers = _numbers(sent)
    if len(numbers) < 2 or len(numbers) != 2 + 2 * numbers[1]:
        raise RequestError(422, "the draft is cut off; expected a whole mask as runs")
    size = int(numbers[0])
    starts, values = np.cumsum(numbers[2::2]), numbers[3::2]
    if size > MAX_VOXELS:
        raise RequestError(422, f"the draft has more than {MAX_VOXELS} voxels; expected a mask of a scan")
    if len(starts) and (starts[-1] >= size or (numbers[4::2] == 0).any() or values.max() > np.iinfo(np.uint8).max):
        raise RequestError(422, "the draft cannot be read; expected runs within the scan and values up to 255")
    return [0, *starts.tolist(), size], [0, *values.tolist()]


def _numbers(sent: bytes) -> np.ndarray:
    """Numbers of seven bits a byte, the lowest first."""
    raw = np.frombuffer(sent, dtype=np.uint8).astype(np.int64)
    ends = np.flatnonzero(raw < 128)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise RequestError(422, "the draft is cut off; expected a whole mask as runs")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LARGEST_BYTES:
        raise RequestError(422, f"the draft cannot be read; expected numbers of at most {LARGEST_BYTES} bytes")
    places = np.arange(len(raw)) - np.repeat(starts, lengths)
    return np.asarray(np.add.reduceat((raw & 127) << (7 * places), starts))


def _compressed(starts: list[int], values: list[int]) -> Iterator[bytes]:
    compressor = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    for value, (start, end) in zip(values, pairwise(starts), strict=True):
        for begin in range(start, end, CHUNK):
            yield compressor.compress(bytes([value]) * min(CHUNK, end - begin))
    yield compressor.flush()
