"""Scans as scanners, converters and broken disks leave them, in every format, made of one small phantom."""

from __future__ import annotations

import copy
import gzip
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from helpers import rotation
from itermask3d.files.volume import Volume
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

MR, CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"
SHAPE = (12, 10, 9)
VALUES = np.random.default_rng(7).integers(0, 4000, SHAPE).astype(np.int16)
"""Every voxel another value, nearly: one in a wrong place shows."""

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(
    degrees: Sequence[float] = (0, 0, 0),
    spacing_mm: Sequence[float] = (1.0, 1.25, 2.0),
    origin: Sequence[float] = (-9.5, 12.25, -30.0),
) -> np.ndarray:
    """An affine without shear."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees=degrees) * np.asarray(spacing_mm)
    affine[:3, 3] = origin
    return affine


UPRIGHT, OBLIQUE = affine_of(), affine_of((12, -21, 33))

Read = Callable[[Volume], None]


@dataclass(frozen=True)
class Case:
    """An input and what is right for it.

    Attributes:
        name: format and fault.
        build: writes it into an empty folder and returns what is to be read.
        refused: regular expression of the sentence; ``None`` if it is read.
        warned: regular expression of one of the warnings; ``None`` for no warning at all.
        affine: where the phantom then lies.
        options: of ``read_volume``.
    """

    name: str
    build: Callable[[Path], Any]
    refused: str | None = None
    warned: str | None = None
    affine: np.ndarray | None = None
    options: dict[str, Any] | None = None


def require_phantom(volume: Volume, affine: np.ndarray, values: np.ndarray = VALUES) -> None:
    """Every voxel of the phantom lies where its affine says, whatever the order of the axes."""
    to_phantom = np.linalg.inv(affine) @ volume.affine
    indices = nib.affines.apply_affine(to_phantom, np.argwhere(np.ones(volume.voxels.shape)))
    nearest = np.round(indices).astype(int)
    assert np.abs(indices - nearest).max() < 1e-3
    assert sorted(volume.voxels.shape) == sorted(values.shape)
    found, expected = volume.voxels.ravel(), values[tuple(nearest.T)].astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def require_warning(volume: Volume, pattern: str | None) -> None:
    if pattern is None:
        assert volume.warnings == ()
    else:
        assert [warning for warning in volume.warnings if re.search(pattern, warning)], volume.warnings


# DICOM


def decimals(values: Sequence[float] | np.ndarray) -> list[str]:
    return [f"{float(value):.10g}"[:16] for value in values]


def mr_slices(values: np.ndarray = VALUES, affine: np.ndarray = UPRIGHT, **attributes: Any) -> list[FileDataset]:
    """Classic images, one a slice along the third axis, explicit little endian."""
    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    slices = []
    for index in range(values.shape[2]):
        data = blank(attributes.get("SOPClassUID", MR))
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, frame
        data.InstanceNumber, data.EchoTime = index + 1, "2.98"
        data.ImagePositionPatient = decimals((lps @ [0, 0, index, 1])[:3])
        data.ImageOrientationPatient = decimals([*lps[:3, 0] / spacing[0], *lps[:3, 1] / spacing[1]])
        data.PixelSpacing = decimals([spacing[1], spacing[0]])
        put_pixels(data, values[:, :, index])
        for key, value in attributes.items():
            setattr(data, key, value)
        slices.append(data)
    return slices


def blank(kind: str = MR) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(kind), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.is_little_endian, data.is_implicit_VR = True, False
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.PatientName = "MR", "P1", "Phantom^One"
    data.ImageType, data.SeriesNumber = ["ORIGINAL", "PRIMARY", "M"], 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    return data


def put_pixels(data: Dataset, plane: np.ndarray, dtype: str = "<i2") -> None:
    """Set pixels of one plane ``(columns, rows)`` or of several ``(columns, rows, frames)``."""
    kind = np.dtype(dtype)
    data.Columns, data.Rows = plane.shape[:2]
    data.BitsAllocated = data.BitsStored = kind.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(kind.kind == "i")
    data.PixelData = np.ascontiguousarray(np.moveaxis(plane, (0, 1), (-1, -2)).astype(kind)).tobytes()
    data["PixelData"].VR = "OW"


def save(slices: Sequence[FileDataset], folder: Path, names: Sequence[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for index, data in enumerate(slices):
        data.save_as(folder / (names[index] if names else f"{index * 7 % 101:04d}.dcm"), write_like_original=False)
    return folder


def edited(edit: Callable[[list[FileDataset]], Any], **make: Any) -> Callable[[Path], Path]:
    """A series whose slices were edited in place, or replaced by what the edit returns if that is a list."""

    def build(folder: Path) -> Path:
        slices = mr_slices(**make)
        changed = edit(slices)
        return save(changed if isinstance(changed, list) else slices, folder / "series")

    return build


def each(**attributes: Any) -> Callable[[list[FileDataset]], None]:
    """An edit of all slices; ``None`` deletes an attribute."""
    return lambda slices: [change(data, **attributes) for data in slices] and None


def one(index: int, **attributes: Any) -> Callable[[list[FileDataset]], None]:
    return lambda slices: change(slices[index], **attributes)


def change(data: Dataset, **attributes: Any) -> None:
    for key, value in attributes.items():
        if value is None:
            delattr(data, key)
        else:
            setattr(data, key, value)


def again(slices: Sequence[FileDataset], **attributes: Any) -> list[FileDataset]:
    """Copies under their own SOPInstanceUID."""
    copies = [copy.deepcopy(data) for data in slices]
    for data in copies:
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        change(data, **attributes)
    return copies


def brighter(slices: Sequence[FileDataset]) -> list[FileDataset]:
    copies = again(slices)
    for data in copies:
        data.PixelData = (np.frombuffer(data.PixelData, "<i2") + 1).tobytes()
    return copies


def moved(data: Dataset, by_mm: Sequence[float]) -> None:
    data.ImagePositionPatient = decimals(np.array(data.ImagePositionPatient, dtype=float) + np.asarray(by_mm))


def enhanced(
    values: np.ndarray = VALUES, affine: np.ndarray = UPRIGHT, frames: Sequence[dict[str, Any]] | None = None
) -> FileDataset:
    """One multi-frame image.

    Args:
        values: ``(I, J, n)``.
        affine: of a volume.
        frames: ``k`` (slice), and ``b`` or ``echo``, of each; default: the slices in order.
    """
    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    data = blank(ENHANCED_MR)
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), generate_uid()
    frames = frames or [{"k": index} for index in range(values.shape[2])]
    put_pixels(data, np.stack([values[:, :, frame["k"]] for frame in frames], axis=2))
    data.NumberOfFrames = len(frames)
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = decimals([spacing[1], spacing[0]]), decimals(spacing[2:])[0]
    orientation = Dataset()
    orientation.ImageOrientationPatient = decimals([*lps[:3, 0] / spacing[0], *lps[:3, 1] / spacing[1]])
    data.SharedFunctionalGroupsSequence = [grouped(PixelMeasures=measures, PlaneOrientation=orientation)]
    data.PerFrameFunctionalGroupsSequence = [_frame_group(lps, frame) for frame in frames]
    return data


def _frame_group(lps: np.ndarray, frame: dict[str, Any]) -> Dataset:
    position, echo, diffusion = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = decimals((lps @ [0, 0, frame["k"], 1])[:3])
    echo.EffectiveEchoTime, diffusion.DiffusionBValue = float(frame.get("echo", 3.0)), float(frame.get("b", 0.0))
    return grouped(PlanePosition=position, MREcho=echo, MRDiffusion=diffusion)


def grouped(**items: Dataset) -> Dataset:
    group = Dataset()
    for key, item in items.items():
        setattr(group, f"{key}Sequence", DicomSequence([item]))
    return group


# NIfTI, MGH, NRRD, MetaImage


def nifti_bytes(
    values: np.ndarray = VALUES,
    affine: np.ndarray | None = UPRIGHT,
    *,
    codes: tuple[int, int] = (1, 0),
    qform: np.ndarray | None = None,
    kind: type = nib.Nifti1Image,
    big_endian: bool = False,
    **fields: Any,
) -> bytes:
    """A single NIfTI file.

    Args:
        codes: sform_code and qform_code.
        qform: default: the affine.
        fields: of the header, written last, whatever nibabel thinks of them.
    """
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(values.dtype)
    image = kind(values, affine, header)
    image.set_sform(affine, codes[0])
    image.set_qform(affine if qform is None else qform, codes[1])
    content = bytearray(image.to_bytes())
    if fields:
        edit_header(content, kind.header_class, **fields)
    return bytes(content)


def edit_header(content: bytearray, kind: type = nib.Nifti1Header, **fields: Any) -> None:
    size = kind.template_dtype.itemsize
    little = int.from_bytes(content[:4], "little") in (348, 540)
    header = np.frombuffer(content[:size], kind.template_dtype.newbyteorder("<" if little else ">")).copy()
    for key, value in fields.items():
        field, _, place = key.partition("__")
        if place:
            header[field][0, int(place)] = value
        else:
            header[field] = value
    content[:size] = header.tobytes()


def written(name: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return build


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def flipped(content: bytes, place: float) -> bytes:
    """One bit in the middle, or elsewhere, is another."""
    changed = bytearray(content)
    changed[int(place * len(changed))] ^= 16
    return bytes(changed)


def mgh_bytes(values: np.ndarray = VALUES, affine: np.ndarray = UPRIGHT) -> bytes:
    image = nib.MGHImage(values, affine.astype(np.float32))
    return image.to_bytes()


def nrrd_text(affine: np.ndarray = UPRIGHT, *, shape: Sequence[int] = SHAPE, **fields: str | None) -> str:
    """An NRRD header in LPS; a field of ``None`` is left out, ``_`` in a name is a space."""
    lps = TO_LPS @ affine
    directions = " ".join(f"({','.join(map(repr, map(float, lps[:3, axis])))})" for axis in range(3))
    content: dict[str, str | None] = {
        "type": "short",
        "dimension": str(len(shape)),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, shape)),
        "space directions": directions,
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": f"({','.join(map(repr, map(float, lps[:3, 3])))})",
    }
    content |= {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key}: {value}" for key, value in content.items() if value is not None]
    return "\n".join(["NRRD0004", "# made for a test", *lines]) + "\n\n"


def nrrd_bytes(payload: bytes | None = None, **fields: Any) -> bytes:
    return nrrd_text(**fields).encode() + (raw() if payload is None else payload)


def raw(dtype: str = "<i2") -> bytes:
    return VALUES.astype(dtype).tobytes(order="F")


def meta_text(affine: np.ndarray = UPRIGHT, *, shape: Sequence[int] = SHAPE, **fields: str | None) -> str:
    """A MetaImage header; a field of ``None`` is left out."""
    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    content: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": str(len(shape)),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(map(repr, map(float, (lps[:3, :3] / spacing).T.ravel()))),
        "Offset": " ".join(map(repr, map(float, lps[:3, 3]))),
        "ElementSpacing": " ".join(map(repr, map(float, spacing))),
        "DimSize": " ".join(map(str, shape)),
        "ElementType": "MET_SHORT",
    }
    content |= fields
    data = content.pop("ElementDataFile", "LOCAL")
    lines = [f"{key} = {value}" for key, value in content.items() if value is not None]
    return "\n".join([*lines, f"ElementDataFile = {data}"]) + "\n"


def meta_bytes(payload: bytes | None = None, **fields: Any) -> bytes:
    return meta_text(**fields).encode() + (raw() if payload is None else payload)
