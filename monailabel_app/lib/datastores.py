"""Where the scans lie: a folder of volumes, or a PACS over DICOMweb. Only what suits the model is offered."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests
from dicomweb_client import DICOMwebClient
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import publish_folder, replaced_folder
from itermask3d.reports.dicom_seg import Maker, require_derivable, write_segmentation
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series, dicom_web_upload_dcm
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.utils.others.generic import md5_digest
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from lib.contrast import contrast_of_name
from lib.errors import RequestError
from lib.keeping import KeptStore
from lib.listing import Listing
from lib.series import STRUCTURAL, T1_ONLY, Series, choose, suitability

__all__ = ["DicomStore", "FolderStore", "patient"]

logger = logging.getLogger(__name__)

TIMEOUT_S = 60
"""Of a silent PACS."""

UID = re.compile(r"[0-9.]{1,64}")


class FolderStore(KeptStore):
    """A folder of volumes (NIfTI, NRRD); a BIDS name of T2w, FLAIR and the like keeps a scan from being offered."""

    def obstacle(self, image: str, contrasts: Sequence[str] = T1_ONLY) -> str:
        """Why a scan does not suit the model; empty where it does or nothing is known.

        Args:
            image: its identifier.
            contrasts: that the model reads.

        Raises:
            RequestError: with status 404 if there is no such scan.
        """
        if image not in self._datastore.objects:
            raise RequestError(404, f"there is no image '{image}' in the folder; expected one of /datastore")
        contrast = contrast_of_name(image)
        if not contrast or contrast in contrasts:
            return ""
        read = "T1" if contrasts == T1_ONLY else "structural scans"
        return f"'{image}' is called {contrast} by its name; the model reads {read} only"

    def list_images(self) -> list[str]:
        """Identifiers of the scans that suit the model."""
        return [image for image in super().list_images() if not self.obstacle(image)]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Scans with a reviewed label."""
        return sorted(set(super().get_labeled_images(label_tag, labels)) & set(self.list_images()))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Scans without a reviewed label."""
        return sorted(set(self.list_images()) - set(super().get_labeled_images(label_tag, labels)))

    def series(self, image: str) -> dict[str, Any] | None:
        """``None``: a volume in a folder belongs to no series.

        Raises:
            RequestError: with status 404 if there is no such scan.
        """
        self.obstacle(image)
        return None


class DicomStore(KeptStore, DICOMWebDatastore):
    """A PACS over DICOMweb; masks go back as DICOM SEG. The cache holds what was fetched, and all labels."""

    def __init__(self, client: DICOMwebClient, cache_path: str | None, fetch_by_frame: bool = False) -> None:
        self._referenced: dict[str, str] = {}
        self._fetching = threading.Lock()
        self.listing = Listing(client)
        self._client = client
        self._search_filter = {"Modality": "MR"}
        self._fetch_by_frame = fetch_by_frame
        self._convert_to_nifti = True
        LocalDatastore.__init__(self, str(_cache_folder(cache_path, client.base_url)), auto_reload=True)

    def find(self, image: str) -> Series:
        """The description of a series.

        Raises:
            RequestError: with status 404 if the PACS has no such MR series, 503 if it does not answer.
        """
        if UID.fullmatch(image) and (series := self.listing.find(image)):
            return series
        raise RequestError(404, f"there is no MR series '{image[:80]}' in the PACS; expected a SeriesInstanceUID")

    def obstacle(self, image: str, contrasts: Sequence[str] = T1_ONLY) -> str:
        """Why a series does not suit the model, and which one of its study does; empty where it suits.

        Args:
            image: UID of the series.
            contrasts: that the model reads.
        """
        series = self.find(image)
        rating = suitability(series, contrasts)
        if rating.suitable:
            return ""
        best = choose(self.listing.described_study(series)).best
        return f"{rating.reason} Use {best.title} of the same study." if best else rating.reason

    def series(self, image: str) -> dict[str, Any] | None:
        """What an answer says of the series that was read."""
        series = self.find(image)
        return {
            "uid": series.uid,
            "description": series.description,
            "number": series.number,
            "study": series.study,
            "contrast": series.contrast,
            "reason": suitability(series, STRUCTURAL).reason,
        }

    def suggest(self, study: str) -> dict[str, Any]:
        """Which series of a study to use, and what speaks for or against each.

        Raises:
            RequestError: with status 404 if the PACS has no MR in such a study.
        """
        found = self.listing.study(study) if UID.fullmatch(study) else []
        if not any(one.modality == "MR" for one in found):
            raise RequestError(404, f"there is no study '{study[:80]}' with MR series in the PACS")
        choice = choose(found)
        series = [
            {
                "uid": one.uid,
                "description": one.description,
                "number": one.number,
                "instances": one.instances,
                "contrast": one.contrast,
                "suitable": rating.suitable,
                "reason": rating.reason,
            }
            for one, rating in choice.ranking
        ]
        chosen = next((one for one in series if choice.best and one["uid"] == choice.best.uid), None)
        return {"chosen": chosen, "reason": choice.reason, "series": series}

    def list_images(self) -> list[str]:
        """UIDs of the series that suit the model as far as the PACS's list and what was looked at tell."""
        return self.listing.offered()

    def status(self) -> dict[str, Any]:
        """Counts for ``/info``, of the last list of the PACS: it is not waited for."""
        offered = {series.uid for series in self.listing.counted() if suitability(series).suitable}
        reviewed = offered & {*LocalDatastore.get_labeled_images(self), *self._referenced.values()}
        tags = Counter(tag for known in list(self._datastore.objects.values()) for tag in known.labels)
        return {"total": len(offered), "completed": len(reviewed), "label_tags": dict(tags)}

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series with a reviewed label here or a SEG of anybody in the PACS."""
        for item in self._ask({"Modality": "SEG"}):
            uid = str(item.SeriesInstanceUID)
            if uid not in self._referenced:
                self._referenced[uid] = self._series_of_seg(str(item.StudyInstanceUID), uid)
        here = LocalDatastore.get_labeled_images(self)
        return sorted({*here, *self._referenced.values()} & set(self.list_images()))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series without any."""
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))

    def get_image_uri(self, image_id: str) -> str:
        """The series as a NIfTI in the cache; fetched whole or not at all.

        Raises:
            RequestError: with status 404 if there is no such series, 422 if its files make up no volume, 503 if the
                PACS does not answer.
        """
        folder = self.series_folder(image_id)
        with self._fetching:
            self._fetch(image_id, folder)
            try:
                found = Path(super().get_image_uri(image_id))
            except RuntimeError as error:  # SimpleITK's, for files that make up no volume
                raise RequestError(422, f"series {image_id} cannot be read as one volume ({_last(error)})") from error
            cached = Path(self._datastore.image_path()).resolve() / f"{image_id}.nii.gz"
            if found.resolve() != cached:  # MONAI Label answers its temporary file the first time, and leaves it
                found.unlink(missing_ok=True)
            return str(cached)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The label's file in the cache; what is final lies there as well as in the PACS."""
        return str(LocalDatastore.get_label_uri(self, label_id, label_tag))

    def series_folder(self, image_id: str) -> Path:
        """Where the files of a series lie in the cache."""
        if not UID.fullmatch(image_id):
            raise RequestError(404, f"there is no MR series '{image_id[:80]}' in the PACS")
        return Path(self._datastore.image_path()) / image_id

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label here first; a final one then goes to the PACS as a DICOM SEG, also an empty one.

        Whether the PACS took it stands in the label's information: ``SeriesInstanceUID`` and ``remarks``, or
        ``not_in_pacs`` with the reason.
        """
        self.get_image_uri(image_id)
        label = self.keep_label(image_id, label_filename, label_tag, label_info)
        if label_tag == DefaultLabelTag.FINAL:
            try:
                stored = self._store_seg(image_id, label_filename, label_info)
            except RequestError as error:
                stored = {"not_in_pacs": error.message}
                logger.warning("The label of series %s is kept on the server, not in the PACS", image_id)
            self.update_label_info(image_id, label_tag, stored)
        return label

    def require_savable(self, image: str) -> None:
        """Check that a mask of a series could be saved as a DICOM SEG.

        Raises:
            RequestError: with status 422 if not, with the reason.
        """
        volume = nib.load(self.get_image_uri(image))
        try:
            require_derivable(volume.shape, volume.affine, self.series_folder(image))
        except ScanError as error:
            raise RequestError(
                422, f"a mask of this series could not be saved to the PACS, so nothing was started: {error}"
            ) from error

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Pairs of image and reviewed label that lie in the cache."""
        return list(LocalDatastore.datalist(self, full_path))

    def _store_seg(self, image_id: str, label: str, info: Mapping[str, Any]) -> dict[str, Any]:
        volume = nib.load(label)
        maker = Maker(
            version=str(info.get("versions", {}).get("itermask3d", "")),
            weights=str(info.get("weights", "")),
            corrected=True,
            user=str(info.get("user", "")),
        )
        path = Path(self._datastore_path) / f".{image_id}.seg.dcm"
        try:
            mask = np.asarray(volume.dataobj)
            written = write_segmentation(mask, volume.affine, self.series_folder(image_id), path, maker=maker)
            dicom_web_upload_dcm(str(path), self._client)
        except ScanError as error:
            raise RequestError(422, f"no DICOM SEG could be made of the label: {error}") from error
        except requests.RequestException as error:
            raise RequestError(503, f"the PACS did not take the DICOM SEG ({_last(error)})") from error
        finally:
            path.unlink(missing_ok=True)
        self._referenced[written.series_uid] = image_id
        return {
            "SeriesInstanceUID": written.series_uid,
            "SOPInstanceUID": written.instance_uid,
            "empty": written.empty,
            "remarks": list(written.remarks),
        }

    def _fetch(self, image_id: str, folder: Path) -> None:
        cached = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
        try:
            series = self.find(image_id)
        except RequestError as error:
            if cached and error.status == 503:
                return
            raise
        if cached and cached >= series.instances:
            return
        folder.with_name(f"{image_id}.nii.gz").unlink(missing_ok=True)  # of a part of the series
        try:
            with replaced_folder(folder) as partial:
                dicom_web_download_series(series.study, image_id, str(partial), self._client, self._fetch_by_frame)
                arrived = sum(1 for _ in partial.iterdir())
                if arrived < series.instances:
                    told = f"the PACS sent {arrived} of {series.instances} images of series {image_id}"
                    raise RequestError(503, told)
        except requests.RequestException as error:
            raise RequestError(503, f"the PACS did not send series {image_id} ({_last(error)})") from error

    def _ask(self, query: Mapping[str, str]) -> list[Dataset]:
        try:
            return [Dataset.from_json(item) for item in self._client.search_for_series(search_filters=dict(query))]
        except requests.RequestException as error:
            raise RequestError(503, f"the PACS does not answer ({_last(error)})") from error

    def _series_of_seg(self, study: str, uid: str) -> str:
        try:
            data = Dataset.from_json(self._client.retrieve_series_metadata(study, uid)[0])
            return str(data.ReferencedSeriesSequence[0].SeriesInstanceUID)
        except (requests.RequestException, AttributeError, IndexError) as error:
            logger.warning("SEG %s names no series and is left aside: %s", uid, error)
            return ""


def _cache_folder(cache_path: str | None, url: str) -> Path:
    """Where a PACS's series and labels lie: by the series' own UIDs, whatever the PACS's address is today.

    MONAI Label has a folder for each address; the one of this address, of an earlier version, is taken over.
    """
    root = Path(cache_path) if cache_path else Path.home() / ".cache" / "monailabel" / "dicom"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)  # patients' images
    folder, by_address = root / "series", root / md5_digest(url)
    if by_address.is_dir() and not folder.exists():
        publish_folder(by_address, folder)
    return folder


def patient(session: requests.Session) -> requests.Session:
    """Let a session wait for its server, but not for ever."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, _WithTimeout())
    return session


class _WithTimeout(HTTPAdapter):
    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent; :data:`TIMEOUT_S` where nobody says otherwise."""
        kwargs["timeout"] = kwargs.get("timeout") or TIMEOUT_S
        return super().send(request, *args, **kwargs)


def _last(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
