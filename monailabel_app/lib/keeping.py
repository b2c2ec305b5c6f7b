"""How labels and the list of them are kept on disk: written aside, checked, renamed; nothing unreadable counts."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
from filelock import FileLock
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import replaced, write_atomically
from monailabel.datastore.local import DataModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException

from lib.errors import RequestError
from lib.uploads import safe_name

__all__ = ["NO_SPACE", "KeptStore", "disk_errors_told", "require_space"]

logger = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
BYTES_A_VOXEL = 24
"""Of a result on disk at most: four volumes, one of them float32, with room to write each aside first."""


def require_space(folder: str | Path, scan: str | Path) -> None:
    """Check before a run that its result will fit.

    Args:
        folder: where results go; it, or the nearest folder above it, exists.
        scan: its file; one that cannot be read passes, for the run says what is wrong with it.

    Raises:
        RequestError: with status 507, naming the folder's disk, what is free and what is needed.
    """
    try:
        needed = math.prod(nib.load(scan).shape) * BYTES_A_VOXEL
    except (nib.filebasedimages.ImageFileError, OSError):
        return
    place = next(path for path in (Path(folder), *Path(folder).resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RequestError(
            507,
            f"the disk of '{place}' has {free / 1e6:.0f} MB left; expected {needed / 1e6:.0f} MB for the result. "
            "Nothing was started",
        )


@contextmanager
def disk_errors_told(what: str) -> Iterator[None]:
    """Turn a full or read-only disk into a sentence.

    Args:
        what: what could not be written, and what became of what lay there.

    Raises:
        RequestError: with status 507.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise RequestError(507, f"the disk is full: {what}. Make room and try again") from error
        if error.errno in READ_ONLY:
            raise RequestError(507, f"the folder cannot be written to ({error.strerror}): {what}") from error
        raise


class KeptStore(LocalDatastore):
    """MONAI Label's store of images and labels, with three promises.

    A label appears whole or not at all, and an older one stays until a newer one is complete and was read back. Labels
    that cannot be read, and files that are being written, do not count. A damaged list of labels is put aside and made
    anew from the files.
    """

    @property
    def directory(self) -> str:
        """Where images (of a PACS: its cache) and labels lie."""
        return str(self._datastore_path)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a volume under a name that is no path."""
        return str(super().add_image(safe_name(image_id) if image_id else "", image_filename, image_info))

    def keep_label(self, image: str, file: str | Path, tag: str, info: Mapping[str, Any]) -> str:
        """Keep a label of an image.

        Args:
            image: identifier in the datastore.
            file: a volume; it is copied aside and read back before it takes its place.
            tag: kind of label.
            info: what is known of it.

        Returns:
            The label's identifier, which is the image's.

        Raises:
            ImageNotFoundException: if there is no such image.
            RequestError: with status 507 if the disk is full or read-only, 422 if the file is no volume; a label that
                was kept before is then as it was.
        """
        if image not in self._datastore.objects:
            raise ImageNotFoundException(f"Image {image} not found")
        _, extension = self._to_id(os.path.basename(file))
        target = Path(self._datastore.label_path(tag)) / self._filename(image, extension)
        with disk_errors_told("the label was not saved, and an earlier one is as it was"), FileLock(self._lock_file):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced(target) as partial:
                shutil.copyfile(file, partial)
                if trouble := unreadable(partial):
                    raise RequestError(422, f"the label cannot be kept, for it cannot be read back ({trouble})")
            kept = {**info, "ts": int(time.time()), "name": target.name}
            self._datastore.objects[image].labels[tag] = DataModel(info=kept, ext=extension)
            self._update_datastore_file(lock=False)
        return image

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]) -> str:
        """As :meth:`keep_label`; MONAI Label's name for it."""
        return self.keep_label(image_id, label_filename, label_tag, label_info)

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        self._ignore_event_config = True
        path = Path(self._datastore_config_path)
        write_atomically(json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str), path)
        self._config_ts = path.stat().st_mtime

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        path = Path(self._datastore_config_path)
        if throw_exception and path.is_file():  # at the start, and only then
            try:
                LocalDatastoreModel.model_validate_json(path.read_bytes())
            except ValueError as error:
                aside = path.with_name(f"{path.name}.unreadable")
                write_atomically(path.read_bytes(), aside)
                path.unlink()
                logger.warning("The list of labels cannot be read (%s); it is kept as %s", _line(error), aside.name)
        super()._init_from_datastore_file(throw_exception)

    def _list_files(self, path: str, patterns: Any) -> dict[str, str]:
        """Volumes of a folder; those of labels only if they can be read."""
        found = {name: file for name, file in super()._list_files(path, patterns).items() if not name.startswith(".")}
        if not _is_below(path, self._datastore.label_path(None)):
            return found
        return {name: file for name, file in found.items() if not self._ignored(Path(path) / file)}

    def _remove_non_existing(self) -> int:
        count = int(super()._remove_non_existing())
        for image, known in self._datastore.objects.items():
            for tag, label in list(known.labels.items()):
                if self._ignored(Path(self._datastore.label_path(tag)) / self._filename(image, label.ext)):
                    del known.labels[tag]
                    count += 1
        return count

    def _ignored(self, path: Path) -> bool:
        """Whether a label's file is there and cannot be read; each state of a file is looked at once."""
        checked: dict[Path, tuple[tuple[int, int], str]] = self.__dict__.setdefault("_checked", {})
        try:
            now = path.stat()
        except OSError:
            return False
        state = (now.st_mtime_ns, now.st_size)
        if checked.get(path, (None, ""))[0] != state:
            trouble = unreadable(path)
            checked[path] = (state, trouble)
            if trouble:
                logger.warning("The label '%s' cannot be read and is ignored: %s", path, trouble)
        return bool(checked[path][1])


def unreadable(path: Path) -> str:
    """Why a volume cannot be read, its last voxel included; empty where it can."""
    try:
        read_volume(path)
    except (ScanError, OSError) as error:
        return _line(error).replace(str(path), path.name.removeprefix(".partial."))
    return ""


def _is_below(path: str, folder: str) -> bool:
    return Path(folder).resolve() in (Path(path).resolve(), *Path(path).resolve().parents)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
