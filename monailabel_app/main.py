"""The MONAI Label app of IterMask3D: from a study in a viewer to mask, score, correction and save.

    monailabel start_server --app monailabel_app --studies <folder or DICOMweb URL> --host 127.0.0.1

For research use only. Settings (``--conf name value``): ``bundle`` (folder), ``weights`` (state dict), ``results``
(folder), ``remote`` (true: answer other machines too; otherwise only this one is answered).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import requests
from dicomweb_client.session_utils import create_session_from_user_pass
from itermask3d import BUNDLE_ROOT, __version__
from itermask3d.files.scans import ScanError, require_same_grid, voxel_volume_ml
from itermask3d.files.writing import save_nifti
from itermask3d.inference.results import RESEARCH_USE, versions
from itermask3d.preprocessing.load import load_volume
from lib.adapting import Adapter
from lib.datastores import DicomStore, FolderStore, patient
from lib.drafts import Drafts
from lib.errors import RequestError
from lib.intake import private_scratch
from lib.keeping import require_space
from lib.learning import DiceScore, MostSuspicious, NormalTrainer, SuspicionScore
from lib.monitor import Monitor
from lib.options import Switch
from lib.results import Results
from lib.series import STRUCTURAL, T1_ONLY
from lib.server import install
from lib.tasks import AutomaticTask, BatchInference, PointsTask, RefineTask
from lib.uploads import safe_tag
from lib.workbench import Workbench
from monailabel.app import app as web_app
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

logger = logging.getLogger(__name__)

SHIPPED, TRAINED = "shipped", "trained here"
ANOMALY_MAP = "anomaly_map"
"""Tag under which the datastore keeps anomaly maps."""


class IterMask3DApp(MONAILabelApp):
    """The app: one model, three ways to ask it, and what a person makes of the answer."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.bundle_root = Path(conf.get("bundle") or BUNDLE_ROOT).resolve()
        self._trained = Path(app_dir) / "model" / "trained.pt"
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="IterMask3D",
            description=f"Unsupervised anomaly segmentation of 3D brain MR. {RESEARCH_USE}",
            version=__version__,
        )
        self._auto_update_scoring = False  # every run of it starts a process that loads torch
        problem = self.workbench.problem()
        if problem:
            logger.error("No model is offered, because %s", problem)

    def init_datastore(self) -> Datastore:
        """The folder or the PACS, and the results beside the labels."""
        store = super().init_datastore() if self.studies.startswith(("http://", "https://")) else self._folder()
        default = Path(store.directory) / ".itermask3d"  # hidden: MONAI Label lists the folder's volumes
        self.results = Results(self.conf.get("results") or default)
        self.drafts = Drafts(self.results.directory / "drafts")
        self.monitor = Monitor(shared=self.results.directory / ".turn")
        shipped = self.conf.get("weights")
        self.workbench = Workbench(
            self.bundle_root,
            self.results,
            self.monitor,
            weights={SHIPPED: Path(shipped) if shipped else None, TRAINED: self._trained},
        )
        return store

    def _folder(self) -> FolderStore:
        return FolderStore(
            self.studies,
            extensions=("*.nii.gz", "*.nii", "*.nrrd"),
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _init_dicomweb_datastore(self) -> Datastore:
        """A PACS over DICOMweb: MR series of suitable contrast; nothing is downloaded beside the series."""
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies,
            session=patient(create_session_from_user_pass(user, password) if user and password else requests.Session()),
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        cache = (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip()
        return DicomStore(client, cache or None, settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME)

    def init_infers(self) -> dict[str, InferTask]:
        """Automatic, refinement, points."""
        tasks = (AutomaticTask, RefineTask, PointsTask)
        return {task.model: task(self.workbench) for task in tasks}

    def init_batch_infer(self) -> BatchInference:
        """Many scans in a row."""
        return BatchInference()

    def init_trainers(self) -> dict[str, TrainTask]:
        """Training on the normal scans of the datastore, and adapting to their scanner."""
        models = Path(self.app_dir) / "model"
        return {
            AutomaticTask.model: NormalTrainer(self.bundle_root, models / "training", self._trained),
            "adapt": Adapter(self.bundle_root, models / "adapting"),
        }

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Anomaly scores, and Dice against what was reviewed."""
        return {"suspicion": SuspicionScore(self.results), "dice": DiceScore()}

    def init_strategies(self) -> dict[str, Strategy]:
        """The most suspicious first; viewers ask for it as ``random``."""
        strategy = MostSuspicious(self.results)
        return {"most_suspicious": strategy, "random": strategy}

    def server_mode(self, mode: bool) -> None:
        """MONAI Label's call at the start of its server: the app's own routes are put in front."""
        super().server_mode(mode)
        if mode:
            private_scratch()
            install(web_app, self)

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Answer one request of a viewer.

        Args:
            request: ``model``, ``image`` (identifier, or the path of an uploaded file) and options; with ``save_label``
                the mask and the anomaly map are kept in the datastore.

        Returns:
            ``label``, ``tag``, ``file`` (on the image's own grid) and ``params``.

        Raises:
            RequestError: if the request cannot be answered.
        """
        store = datastore or self.datastore()
        task = self._infers.get(str(request.get("model") or ""))
        if task is None:
            known = ", ".join(self._infers)
            raise RequestError(404, f"there is no model '{request.get('model')}'; expected one of {known}")
        problem = self.workbench.problem()
        if problem:
            raise RequestError(503, problem)
        image = str(request.get("image") or "")
        tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL
        tag = safe_tag(str(getattr(tag, "value", tag)))
        passing = _is_passing(image, request)
        series = None if passing else self._series(store, image, request)
        path = image if passing else store.get_image_uri(image)
        require_space(self.results.directory, path)
        if series and Switch(True).parse("contrast_check", request.get("contrast_check"))[0]:
            store.require_savable(image)
        try:
            file, params = task({**request, "image": path, "image_id": image, "series": series})
        finally:
            if passing and not request.get("session"):
                self.results.forget(image)
        label = file
        if Switch(False).parse("save_label", request.get("save_label"))[0] and not passing:
            label = store.save_label(image, file, tag, {"model": task.model, "params": params})
            self._keep_anomaly_map(store, image)
        return {"label": label, "tag": DefaultLabelTag.ORIGINAL, "file": file, "params": params}

    def cleanup_sessions(self) -> None:
        """With a session goes what was found on its image."""
        super().cleanup_sessions()
        self.results.forget_lost()

    def suggest_series(self, study: str) -> dict[str, Any]:
        """Which series of a study to use.

        Raises:
            RequestError: with status 404 where there is no such study, or no PACS.
        """
        store = self.datastore()
        if not isinstance(store, DicomStore):
            raise RequestError(404, "the scans lie in a folder, which knows no studies")
        return store.suggest(study)

    def save_correction(
        self, image: str, label_path: str | Path, *, user: str = "", comment: str = ""
    ) -> dict[str, Any]:
        """Keep a person's mask: a label in the datastore, a DICOM SEG in the PACS, and the anomaly map.

        Args:
            image: identifier in the datastore.
            label_path: a volume on the image's grid; whatever is not 0 is the finding.
            user: who corrected it.
            comment: what the person wants to say.

        Returns:
            ``image``, ``label``, ``user``, ``time``, ``versions``, ``volume_ml``, ``empty``, ``seg_series_uid``
            (``None`` where the PACS has no copy) and ``warnings``: why it has none, and what was mended in its header.

        Raises:
            RequestError: if image or label are unknown or unusable, or the disk is full.
        """
        store = self.datastore()
        store.series(image)  # raises where there is no such image
        mask, affine = _read_mask(label_path, store.get_image_uri(image))
        params = self.results.params(image) or {}
        facts: dict[str, Any] = {
            "user": user,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "comment": comment,
            "versions": versions(),
            "weights": params.get("settings", {}).get("weights_sha256", ""),
            "automatic": {
                name: params.get(name) for name in ("outcome", "score", "threshold", "volumes_ml", "prompted")
            },
            "volume_ml": float(mask.sum()) * voxel_volume_ml(affine),
            "empty": not mask.any(),
            "label_info": [{"name": "anomaly", "idx": 1}],
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "label.nii.gz"
            save_nifti(mask.astype(np.uint8), affine, file)
            label = store.save_label(image, str(file), DefaultLabelTag.FINAL.value, facts)
        saved = store.get_label_info(image, DefaultLabelTag.FINAL.value)
        answer = {name: facts[name] for name in ("user", "time", "comment", "versions", "volume_ml", "empty")}
        warnings = [*saved.get("remarks", []), *self._keep_anomaly_map(store, image)]
        if missing := saved.get("not_in_pacs"):
            warnings.insert(0, f"The mask is kept on this server, not in the PACS: {missing}.")
        return {
            "image": image,
            "label": label,
            "seg_series_uid": saved.get("SeriesInstanceUID"),
            "warnings": warnings,
            **answer,
        }

    def _series(self, store: Datastore, image: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The series behind an image that the model may be run on."""
        checked, _ = Switch(True).parse("contrast_check", request.get("contrast_check"))
        asked = self.results.options(image) | {name: value for name, value in request.items() if value}
        others = self.workbench.reads_other_contrasts(asked.get("model_choice"), str(asked.get("weights") or ""))
        obstacle = store.obstacle(image, STRUCTURAL if others else T1_ONLY)
        if obstacle and checked:
            raise RequestError(422, obstacle)
        return store.series(image)

    def _keep_anomaly_map(self, store: Datastore, image: str) -> list[str]:
        """Keep the map beside the label; why not is told, for the label itself is safe."""
        path = self.results.file(image, "anomaly_map")
        if not path.is_file():
            return []
        params = self.results.params(image) or {}
        facts = {name: params.get(name) for name in ("score", "threshold", "settings", "versions")}
        try:
            store.save_label(image, str(path), ANOMALY_MAP, facts)
        except RequestError as error:
            return [f"The anomaly map was not kept beside the mask: {error.message}."]
        return []


def _is_passing(image: str, request: Mapping[str, Any]) -> bool:
    """Whether a request names a file that came with it or with its session; other paths are nobody's business."""
    folders = [Path(tempfile.gettempdir()).resolve()]
    if request.get("session"):
        folders.append(Path(settings.MONAI_LABEL_SESSION_PATH or Path.home() / ".cache" / "monailabel").resolve())
    path = Path(image)
    return path.is_absolute() and path.exists() and any(folder in path.resolve().parents for folder in folders)


def _read_mask(label_path: str | Path, image_path: str) -> tuple[np.ndarray, np.ndarray]:
    """A person's mask, boolean, and the affine of the image that it lies on."""
    image = load_volume(image_path)
    affine = np.asarray(image.affine, dtype=float)
    try:
        label = load_volume(label_path)
        require_same_grid("label", label.shape, np.asarray(label.affine), scan_shape=image.shape, scan_affine=affine)
    except ScanError as error:
        message = str(error).replace(str(label_path), "the label")
        raise RequestError(422, f"the label cannot be saved: {message}") from error
    return np.asarray(label.as_tensor()) > 0, affine
