"""One kind of error for whatever a request asks that cannot be done."""

from __future__ import annotations

__all__ = ["RequestError"]


class RequestError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status: 404 unknown, 422 unusable, 503 not now.
        message: one sentence: what, which value, what was expected.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
