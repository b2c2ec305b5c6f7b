"""Names of cases: short enough for any file system, and text whatever bytes a file name holds."""

from __future__ import annotations

import hashlib
import os

__all__ = ["MAX_NAME_BYTES", "case_name"]

MAX_NAME_BYTES = 160
"""Of a case; the names of its files are longer, and file systems allow 255 bytes."""


def case_name(name: str) -> str:
    """A name that stays when other scans join the folder.

    Bytes that are no UTF-8 are read as Latin-1. A name that is too long keeps its end and gets a digest of the whole.
    """
    text = "".join(chr(ord(sign) - 0xDC00) if 0xDC80 <= ord(sign) <= 0xDCFF else sign for sign in name)
    whole = text.encode(errors="replace")
    if len(whole) <= MAX_NAME_BYTES:
        return whole.decode()
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{digest}_{whole[-MAX_NAME_BYTES + 9 :].decode(errors='ignore')}"
