"""What comes in over HTTP and is kept, scans and sessions: no upload outlives its request.

MONAI Label's own routes write it where every user of the machine can read it, and remove it only after a good answer.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, UploadFile
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.errors import RequestError
from lib.uploads import Params, Scratch, parse_options, safe_name, store_upload

__all__ = ["Intake", "private_scratch"]

Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
PREFIX = "itermask3d_"


def private_scratch() -> Path:
    """Let all temporary files of this process, MONAI Label's too, lie in a folder that only this user can open.

    The folder goes when the process ends in an orderly way.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    return folder


class Intake:
    """Routes in front of MONAI Label's; an upload is gone when its request is answered, whatever the answer is."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance

    def router(self) -> APIRouter:
        """All routes with their methods and rights."""
        router = APIRouter(tags=["IterMask3D"])
        for path in ("/datastore/", "/datastore/image"):
            router.add_api_route(path, self.put_image, methods=["PUT"], include_in_schema=path != "/datastore/")
        router.add_api_route("/session/", self.put_session, methods=["PUT"], dependencies=[USER])
        return router

    def put_image(
        self, file: Annotated[UploadFile, File()], account: Annotator, image: str = "", params: Params = "{}"
    ) -> dict[str, str]:
        """A new scan for the folder; none takes the place of another."""
        name = safe_name(image or Path(file.filename or "").name.split(".")[0])
        options = parse_options(params) | ({"user": account.username} if account.username else {})
        store = self.instance.datastore()
        if hasattr(store, "series_folder"):
            raise RequestError(422, "a PACS takes new scans over DICOMweb; expected a server on a folder")
        if store.get_image_uri(name):
            raise RequestError(409, f"there is an image '{name}' already; expected another name")
        with Scratch() as scratch:
            return {"image": store.add_image(name, str(store_upload(file, scratch)), options)}

    def put_session(
        self, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
    ) -> dict[str, Any]:
        """A scan that is kept for a while and belongs to no folder."""
        sessions = self.instance.sessions()
        if sessions is None:
            raise RequestError(406, "sessions are switched off; expected MONAI_LABEL_SESSIONS true")
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            paths = [Path(folder) / safe_name(Path(file.filename or "").name) for file in files]
            for file, path in zip(files, paths, strict=True):
                with path.open("wb") as target:
                    shutil.copyfileobj(file.file, target)
            Path(sessions.store_path).mkdir(mode=0o700, parents=True, exist_ok=True)
            received = folder if len(paths) > 1 else str(paths[0])
            try:
                name, session = sessions.add_session(received, expiry, uncompress)
            except (shutil.ReadError, ValueError) as error:
                raise RequestError(
                    422, "the upload cannot be opened as an archive; expected a zip or tar file"
                ) from error
            Path(folder).mkdir(exist_ok=True)  # MONAI Label moves it away if it holds several files
        return {"session_id": name, "session_info": session.to_json()}
