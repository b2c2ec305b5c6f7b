"""From a volume to a classic MR series: one DICOM file a slice, for trying out viewers and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from itermask3d.files.errors import ScanError

__all__ = ["MrProtocol", "MrSeries", "write_mr_series"]

MR_IMAGE_STORAGE = UID("1.2.840.10008.5.1.4.1.1.4")
DS_LENGTH = 16
"""Characters that a decimal string may have (DICOM PS3.5, section 6.2)."""

SQUARE_TOLERANCE = 1e-3
"""How far from zero the cosine between two voxel axes may be: header rounding, not shear."""

STORED_MAX = 65535


@dataclass(frozen=True)
class MrProtocol:
    """What the scanner is said to have been told; the defaults are those of a T1 MPRAGE at 3 T.

    Attributes:
        repetition_ms, echo_ms: TR and TE.
        inversion_ms: TI; ``None`` without an inversion pulse.
        flip_degrees: flip angle.
        scanning_sequence, sequence_variant: DICOM's codes.
        acquisition: ``"3D"`` or ``"2D"``.
        contrast_agent: what was injected; empty for nothing.
    """

    repetition_ms: float = 2300.0
    echo_ms: float = 2.98
    inversion_ms: float | None = 900.0
    flip_degrees: float = 9.0
    scanning_sequence: tuple[str, ...] = ("GR", "IR")
    sequence_variant: tuple[str, ...] = ("SP", "MP")
    acquisition: str = "3D"
    contrast_agent: str = ""


@dataclass(frozen=True)
class MrSeries:
    """A series as it was written: its folder, its UIDs and its files in the order of the third voxel axis."""

    folder: Path
    study_uid: str
    series_uid: str
    files: tuple[Path, ...]


def write_mr_series(
    volume: NDArray[Any],
    affine: NDArray[Any],
    folder: str | Path,
    *,
    description: str,
    name: str = "demo",
    study_uid: str | None = None,
    series_number: int = 1,
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M"),
    protocol: MrProtocol | None = None,
) -> MrSeries:
    """Write a volume as MR images (classic, uncompressed), one file a slice along the third voxel axis.

    The first voxel axis runs along an image's columns, the second along its rows. Any orientation works, left-handed
    grids too, since every slice carries its own position; readers that sort slices along the normal of the image
    plane then see the third axis of a left-handed grid (in DICOM's coordinates) reversed, with an affine that says so.

    Args:
        volume: ``(I, J, K)``, finite. Whole numbers within a range of 65535 are kept exactly; others are rounded to
            1/65535 of their range.
        affine: ``(4, 4)``, voxel to RAS millimetres, without shear.
        folder: made if missing; must hold no file.
        description: SeriesDescription, at most 64 characters.
        name: seed of all UIDs, and the patient's made-up identity; one name and number give the same UIDs again.
        study_uid: lets several series of one ``name`` share a study and its frame of reference; default: the name's.
        series_number: SeriesNumber.
        image_type: three values or more.
        protocol: see :class:`MrProtocol`.

    Raises:
        ScanError: if the volume, the affine or the folder cannot be used.
    """
    values, axes = np.asarray(volume), np.asarray(affine, dtype=float)
    _check(values, axes, description)
    stored, slope, intercept = _stored(values)
    study_uid = study_uid or _uid("study", name)
    series_uid = _uid("series", name, study_uid, str(series_number), description)
    header = _common(name, description, study_uid, series_uid, series_number, image_type, protocol or MrProtocol())
    _add_pixel_format(header, values.shape, slope, intercept)
    files = []
    folder = _empty_folder(Path(folder))
    for index in range(values.shape[2]):
        _place(header, axes, index)
        uid = _uid("instance", series_uid, str(index))
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = uid
        header.PixelData = np.ascontiguousarray(stored[:, :, index].T).tobytes()
        files.append(folder / f"MR{index + 1:05d}.dcm")
        header.save_as(files[-1], write_like_original=False)
    return MrSeries(folder, study_uid, series_uid, tuple(files))


def _check(volume: NDArray[Any], affine: NDArray[Any], description: str) -> None:
    if volume.ndim != 3 or 0 in volume.shape or max(volume.shape) > STORED_MAX:
        raise ScanError(f"a DICOM series needs one 3D volume, got an array of shape {volume.shape}")
    if not np.all(np.isfinite(volume)):
        raise ScanError("the volume holds values that are not finite; DICOM has no code for them")
    if affine.shape != (4, 4) or not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanError(f"the affine cannot be used: expected an invertible 4×4 matrix, got {affine.tolist()}")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    skew = np.abs(axes.T @ axes - np.eye(3)).max()
    if skew > SQUARE_TOLERANCE:
        raise ScanError(f"the voxel axes are not at right angles (cosine {skew:.3f}); resample the scan first")
    if not 0 < len(description) <= 64:
        raise ScanError(f"a series description has 1 to 64 characters, got {len(description)}")


def _empty_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ScanError(f"folder '{folder}' is not empty; name another one for the series")
    return folder


def _stored(volume: NDArray[Any]) -> tuple[NDArray[Any], str, str]:
    """Pixels as uint16 with slope and intercept as they are written, so that rounding sees the written values."""
    low, high = float(volume.min()), float(volume.max())
    whole = high - min(low, 0) <= STORED_MAX and bool(np.all(volume == np.round(volume)))
    slope = "1" if whole or high == low else _decimal((high - low) / STORED_MAX)
    intercept = _decimal(min(low, 0.0) if whole else low)
    codes = np.round((volume.astype(np.float64) - float(intercept)) / float(slope))
    return np.clip(codes, 0, STORED_MAX).astype("<u2"), slope, intercept


def _common(
    name: str,
    description: str,
    study_uid: str,
    series_uid: str,
    series_number: int,
    image_type: tuple[str, ...],
    protocol: MrProtocol,
) -> FileDataset:
    """What all slices share, except pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MR_IMAGE_STORAGE
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.Modality, data.ImageType = MR_IMAGE_STORAGE, "MR", list(image_type)
    identity = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.upper())[:40]
    data.PatientName, data.PatientID = f"ITERMASK3D^{identity}", f"ITERMASK3D-{identity}"
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
                  "ReferringPhysicianName", "PositionReferenceIndicator", "ScanOptions"):  # fmt: skip
        setattr(data, empty, "")
    data.Manufacturer, data.StudyDescription = "IterMask3D", "IterMask3D try-out, not for clinical use"
    data.StudyInstanceUID, data.SeriesInstanceUID = study_uid, series_uid
    data.FrameOfReferenceUID = _uid("frame", study_uid)
    data.SeriesNumber, data.SeriesDescription = series_number, description
    data.BodyPartExamined, data.PatientPosition = "BRAIN", "HFS"
    _add_protocol(data, protocol)
    return data


def _add_protocol(data: FileDataset, protocol: MrProtocol) -> None:
    data.ScanningSequence, data.SequenceVariant = list(protocol.scanning_sequence), list(protocol.sequence_variant)
    data.MRAcquisitionType, data.EchoTrainLength = protocol.acquisition, 1
    data.RepetitionTime, data.EchoTime = _decimal(protocol.repetition_ms), _decimal(protocol.echo_ms)
    data.FlipAngle = _decimal(protocol.flip_degrees)
    if protocol.inversion_ms is not None:
        data.InversionTime = _decimal(protocol.inversion_ms)
    if protocol.contrast_agent:
        data.ContrastBolusAgent = protocol.contrast_agent


def _add_pixel_format(data: FileDataset, shape: tuple[int, ...], slope: str, intercept: str) -> None:
    data.Columns, data.Rows = shape[0], shape[1]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = slope, intercept, "US"


def _place(data: FileDataset, affine: NDArray[Any], index: int) -> None:
    """Set a slice's place: DICOM's axes run to the left, the back and up (PS3.3, C.7.6.2.1.1)."""
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    column = to_lps[:3, 0] / spacing[0]
    row = to_lps[:3, 1] - (to_lps[:3, 1] @ column) * column  # rounded headers: make it exactly square
    row /= np.linalg.norm(row)
    data.InstanceNumber = index + 1
    data.ImageOrientationPatient = [_decimal(value) for value in (*column, *row)]
    data.ImagePositionPatient = [_decimal(value) for value in (to_lps @ [0, 0, index, 1])[:3]]
    data.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    data.SliceThickness = data.SpacingBetweenSlices = _decimal(spacing[2])


def _decimal(value: float) -> str:
    """A number in at most 16 characters, with as many digits as fit."""
    for digits in range(DS_LENGTH - 1, 0, -1):
        text = f"{float(value) + 0.0:.{digits}g}"
        if len(text) <= DS_LENGTH:
            return text
    raise ScanError(f"{value} cannot be written as a DICOM decimal")


def _uid(*seeds: str) -> UID:
    return generate_uid(entropy_srcs=["itermask3d", *seeds])
