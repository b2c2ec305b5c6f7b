"""Routes that stand in front of MONAI Label's own: answers during a run, clear errors, the panel in OHIF, the guard.

MONAI Label calls ``MONAILabelApp.server_mode`` while its FastAPI app starts; the app calls :func:`install` from there,
so a plain ``monailabel start_server`` serves everything.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, File, Request, UploadFile
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from itermask3d.preprocessing.load import load_volume
from itermask3d.reports.dicom_seg import Maker, write_segmentation
from monailabel.config import settings
from monailabel.endpoints.infer import send_response
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.utils.others.generic import remove_file
from starlette.middleware import Middleware

from lib.drafts import add_draft_routes
from lib.errors import RequestError
from lib.guard import HANDLED, LoopbackGuard, NameCheck, answer_error, describe_error
from lib.intake import Intake
from lib.monitor import CANCELLED
from lib.ohif import app_config, ohif_file
from lib.overlays import add_overlay_route
from lib.page import draw_curve, render_report
from lib.proxy import PacsProxy
from lib.uploads import Params, Scratch, on_grid, parse_options, safe_name, safe_person, safe_tag, store_upload

__all__ = ["install"]

logger = logging.getLogger(__name__)

MODEL, REFINE = "itermask3d", "itermask3d_refine"
OUTPUTS = ("", "none", "json", "image", "all", "dicom_seg")
MAX_WAITING = 8
"""Runs that may wait at a time: each holds one of the server's about 40 worker threads, the others answer the rest."""

KEPT_FAILURES = 100
"""Images whose last failure is remembered."""

PANEL = Path(__file__).parent / "panel"
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Upload = Annotated[UploadFile, File()]


def install(app: FastAPI, instance: Any) -> None:
    """Put the routes in front of MONAI Label's, guard the app and let errors answer with a sentence.

    The app may already be starting: the router is live, and the middleware is built anew around it. A second call, with
    a new instance, replaces the first.

    Args:
        app: ``monailabel.app.app``.
        instance: the MONAI Label app; ``instance.conf["remote"]`` opens the server to other machines.
    """
    logging.getLogger("monailabel.datastore.local").setLevel(logging.WARNING)  # it logs what people say of scans
    for route in getattr(app.state, "itermask3d_routes", ()):
        app.router.routes.remove(route)
    app.state.itermask3d_routes = [*Intake(instance).router().routes, *Routes(instance).router().routes]
    app.router.routes[:0] = app.state.itermask3d_routes
    app.exception_handlers.update(dict.fromkeys(HANDLED, answer_error))
    ours = [
        Middleware(LoopbackGuard, remote=str(instance.conf.get("remote", "")).lower() in {"true", "1", "yes"}),
        Middleware(NameCheck, instance=instance),
    ]
    kept = [entry for entry in app.user_middleware if entry not in getattr(app.state, "itermask3d_middleware", ())]
    app.state.itermask3d_middleware = ours
    app.user_middleware = [*ours, *kept]
    app.middleware_stack = app.build_middleware_stack()
    app.openapi_schema = None


class Routes:
    """The routes, bound to one instance of the app. Plain functions: each runs in a worker thread.

    Errors are raised as :class:`RequestError` and answered as ``{"detail": "<sentence>"}``.
    """

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self._slots = threading.BoundedSemaphore(MAX_WAITING)
        self._failures: dict[str, str] = {}
        studies = str(getattr(instance, "studies", ""))
        self._proxy = PacsProxy(studies if studies.startswith(("http://", "https://")) else "")

    def router(self) -> APIRouter:
        """All routes with their methods and rights."""
        router = APIRouter(tags=["IterMask3D"])
        router.add_api_route("/infer/{model}", self.infer, methods=["POST"], dependencies=[USER], response_model=None)
        router.add_api_route("/info/", self.info, dependencies=[USER], response_model=None)
        router.add_api_route("/proxy/dicom/{path:path}", self.proxy, methods=["GET", "POST"], dependencies=[USER])
        router.add_api_route("/datastore/label", self.put_label, methods=["PUT"])
        router.add_api_route("/itermask3d/refine", self.refine, methods=["POST"], dependencies=[USER])
        router.add_api_route("/itermask3d/save", self.save, methods=["POST"])
        router.add_api_route("/itermask3d/cancel", self.cancel, methods=["POST"], dependencies=[USER])
        add_draft_routes(router, self.instance.drafts, [USER])
        add_overlay_route(router, self.instance.results, [USER])
        for name in ("status", "result", "mask", "series", "report"):
            router.add_api_route(f"/itermask3d/{name}", getattr(self, name), dependencies=[USER], response_model=None)
        for name in ("curve", "overview"):
            router.add_api_route(f"/itermask3d/{name}.png", getattr(self, name), dependencies=[USER])
        for file in sorted(PANEL.iterdir()):
            router.add_api_route(f"/itermask3d/{file.name}", _panel_file(file.name), include_in_schema=False)
        router.add_api_route("/ohif/app-config.js", app_config, include_in_schema=False)
        router.add_api_route("/ohif/{path:path}", ohif_file, dependencies=[USER], include_in_schema=False)
        for path in ("/", "/docs"):  # MONAI Label's own pages load scripts from elsewhere
            router.add_api_route(path, self.front_page, include_in_schema=False)
        router.add_api_route("/logs/", self.logs, dependencies=[USER], include_in_schema=False)
        return router

    def infer(
        self,
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: Params = "{}",
        file: Upload | None = None,
        label: Upload | None = None,
        output: str = "",
    ) -> Any:
        """MONAI Label's ``/infer/{model}``, which answers other requests meanwhile and says what went wrong."""
        if output not in OUTPUTS:
            raise RequestError(422, f"output is '{output}'; expected one of {', '.join(OUTPUTS[1:])}")
        options = parse_options(params)
        with self._slot(), Scratch() as scratch:
            request = {**options, **self._subject(image, session_id, file, scratch), "model": model}
            request.pop("label", None)
            if label is not None:
                request["label"] = str(self._label(label, request["image"], scratch))
            result = self._run(request)
        if output == "dicom_seg":
            result["dicom_seg"] = self._dicom_seg(image, result, background_tasks)
        return send_response(self.instance.datastore(), result, output, background_tasks)

    def info(self) -> dict[str, Any]:
        """MONAI Label's ``/info/``, in a thread: whatever it waits for, other requests are answered."""
        return dict(self.instance.info())

    async def proxy(self, request: Request, path: str) -> Response:
        """DICOMweb of the PACS, for OHIF."""
        return await self._proxy(request, path)

    def refine(self, image: str, label: Upload, params: Params = "{}") -> dict[str, Any]:
        """Run the loop again from a person's mask; the mask is then at ``/itermask3d/mask``."""
        image, options = safe_name(image), parse_options(params)
        with self._slot(), Scratch() as scratch:
            mask = self._label(label, image, scratch)
            result = self._run({**options, "model": REFINE, "image": image, "label": str(mask)})
        _discard(result)
        return result["params"]

    def save(self, image: str, label: Upload, account: Annotator, user: str = "", comment: str = "") -> dict[str, Any]:
        """Keep a person's mask as the final label: a NIfTI file, and a DICOM SEG in the PACS."""
        image = safe_name(image)
        user = safe_person(user.strip() or (account.username if settings.MONAI_LABEL_AUTH_ENABLE else ""))
        with Scratch() as scratch:
            mask = self._label(label, image, scratch)
            saved = self.instance.save_correction(image, mask, user=user, comment=comment)
        self.instance.drafts.drop(image)
        logger.info("saved the final label of image '%s', series %s", image, saved.get("seg_series_uid"))
        return saved

    def put_label(
        self, image: str, label: Upload, account: Annotator, params: Params = "{}", tag: str = ""
    ) -> dict[str, Any]:
        """MONAI Label's route for its clients: a final label goes the way of :meth:`save`, also when empty."""
        options = parse_options(params)
        if tag in ("", "final"):
            user, comment = options.get("user", ""), options.get("comment", "")
            return self.save(safe_name(image), label, account, str(user), str(comment))
        image, tag = safe_name(image), safe_tag(tag)
        with Scratch() as scratch:
            path, told = self._label(label, image, scratch), options | {"user": account.username}
            kept = self.instance.datastore().save_label(image, str(path), tag, told)
        return {**(self.instance.on_save_label(image, kept) or {}), "image": image, "label": kept}

    def front_page(self) -> Response:
        """OHIF where there is a PACS, else what the server offers."""
        pacs = hasattr(self.instance.datastore(), "series_folder")
        return RedirectResponse("/ohif/" if pacs else "/info/")

    def logs(self, lines: int = 300) -> Response:
        """The last lines of the log, as plain text."""
        path = Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
        text = path.read_text(errors="replace").splitlines() if path.is_file() else []
        return PlainTextResponse("\n".join(text[-max(lines, 1) :]) + "\n")

    def status(self, image: str = "") -> dict[str, Any]:
        """What runs, how many wait, what finished last; of an image, whether it waits and why its last run failed."""
        monitor = self.instance.monitor
        return {**monitor.status(), "waits": monitor.waits(image), "failure": self._failures.get(image)}

    def cancel(self, image: str) -> dict[str, Any]:
        """End the run on an image at its next step, or its waiting at once."""
        self.instance.monitor.cancel(safe_name(image))
        return {"image": image, "cancelled": True}

    def result(self, image: str) -> Response:
        """What the last run found; 204 without a body where the image has no result yet."""
        found = self.instance.results.params(safe_name(image))
        return (
            Response(status_code=204) if found is None else JSONResponse(found, headers={"Cache-Control": "no-store"})
        )

    def curve(self, image: str) -> Response:
        """The error curve as a PNG."""
        return Response(draw_curve(self._found(image)), media_type="image/png")

    def overview(self, image: str) -> Response:
        """The picture of the last run as a PNG."""
        self._found(image)
        path = self.instance.results.folder(image) / "overview.png"
        if not path.is_file():
            raise RequestError(404, f"the result of image '{image}' has no overview")
        return FileResponse(path, media_type="image/png")

    def report(self, image: str) -> Response:
        """One HTML page about the last run, which needs no network."""
        found = self._found(image)
        folder = self.instance.results.folder(image)
        stored = folder / "result.json"
        details = json.loads(stored.read_text()) if stored.is_file() else {}
        overview = folder / "overview.png"
        page = render_report(found, details, overview.read_bytes() if overview.is_file() else None)
        return HTMLResponse(page, headers={"Cache-Control": "no-store"})

    def mask(self, image: str) -> Response:
        """Voxels of the last mask as bytes, first axis fastest, as viewers hold them; ``X-Shape: i,j,k``."""
        self._found(image)
        voxels = self.instance.results.mask(image)
        if voxels is None:
            raise RequestError(404, f"the result of image '{image}' holds no mask any more; run the model again")
        headers = {"X-Shape": ",".join(map(str, voxels.shape)), "Cache-Control": "no-store"}
        return Response(
            voxels.astype(np.uint8).tobytes(order="F"), media_type="application/octet-stream", headers=headers
        )

    def series(self, study: str) -> dict[str, Any]:
        """Which series of a study suits the model, and why the others do not."""
        return self.instance.suggest_series(safe_name(study))

    def _found(self, image: str) -> dict[str, Any]:
        found = self.instance.results.params(safe_name(image))
        if found is None:
            raise RequestError(404, f"image '{image}' has no result yet; run the model '{MODEL}' on it first")
        return found

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Bound the runs that wait, so that worker threads are left for every other request."""
        if not self._slots.acquire(blocking=False):
            raise RequestError(503, f"{MAX_WAITING} runs are already waiting; try again when some have finished")
        try:
            yield
        finally:
            self._slots.release()

    def _subject(self, image: str, session_id: str, file: UploadFile | None, scratch: Scratch) -> dict[str, Any]:
        """The image to run on: an upload, a session's, or one of the datastore."""
        if file is not None:
            return {"image": str(store_upload(file, scratch))}
        if session_id:
            sessions = self.instance.sessions()
            session = sessions.get_session(session_id) if sessions is not None else None
            if session is None:
                raise RequestError(404, f"there is no session '{session_id}', or it has expired")
            return {"image": session.image, "session": session.to_json()}
        if not image:
            raise RequestError(422, "the request names no image, holds no file and belongs to no session")
        return {"image": safe_name(image)}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        logger.info("'%s' on '%s' with the options %s", request["model"], request["image"], ", ".join(sorted(request)))
        image = str(request["image"])
        self._failures.pop(image, None)
        try:
            result = self.instance.infer(request)
            if not result:
                raise RequestError(500, f"model '{request['model']}' returned nothing")
        except Exception as error:
            status, sentence = describe_error(error)
            if status != CANCELLED:
                self._note_failure(image, sentence)
            raise
        return result

    def _note_failure(self, image: str, message: str) -> None:
        """Keep why a run failed, for a page that is loaded again; the newest of so many images."""
        self._failures[image] = message
        for oldest in list(self._failures)[:-KEPT_FAILURES]:
            del self._failures[oldest]

    def _label(self, label: UploadFile, image: str, scratch: Scratch) -> Path:
        """Store an uploaded mask; the raw bytes of a viewer (``.bin``) become a NIfTI file on the image's grid."""
        path = store_upload(label, scratch, extra=(".bin",))
        if path.suffix != ".bin":
            return path
        reference = Path(image) if Path(image).is_absolute() else Path(self.instance.datastore().get_image_uri(image))
        if not reference.is_file():
            raise RequestError(404, f"the datastore has no image '{image}'")
        return on_grid(path, reference, scratch)

    def _dicom_seg(self, image: str, result: dict[str, Any], background_tasks: BackgroundTasks) -> str:
        """Write the answer as a DICOM segmentation, which is removed once it is sent."""
        folder = ""
        try:
            datastore = self.instance.datastore()
            if not image or not hasattr(datastore, "series_folder"):
                raise RequestError(422, "output=dicom_seg needs an image of a PACS, read over DICOMweb")
            answer = load_volume(result["file"])
            params = result["params"]
            maker = Maker(
                version=str(params.get("versions", {}).get("itermask3d", "")),
                weights=str(params.get("settings", {}).get("weights_sha256", "")),
            )
            folder = mkdtemp(prefix="itermask3d_")
            background_tasks.add_task(remove_file, folder)
            mask, affine = np.asarray(answer.as_tensor()), np.asarray(answer.affine, dtype=float)
            path = Path(folder) / "seg.dcm"
            return str(write_segmentation(mask, affine, datastore.series_folder(image), path, maker=maker).path)
        except Exception:
            _discard(result)
            if folder:
                remove_file(folder)
            raise


def _panel_file(name: str) -> Any:
    def send_file() -> Response:
        return FileResponse(PANEL / name, headers={"Cache-Control": "no-cache"})

    return send_file


def _discard(result: dict[str, Any]) -> None:
    """Remove the file that a run wrote for its answer and that nobody will fetch."""
    if result.get("file"):
        Path(result["file"]).unlink(missing_ok=True)
