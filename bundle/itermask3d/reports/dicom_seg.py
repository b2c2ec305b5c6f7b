"""Masks as DICOM segmentations that lie on their source series, voxel by voxel."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from itermask3d.files.dicom_identity import keep_character_set, repair_identity
from itermask3d.files.dicom_slices import on_slices, read_slices
from itermask3d.files.read import Source
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import replaced

if TYPE_CHECKING:  # an extra of the package: imported where it is used
    import highdicom as hd


__all__ = [
    "BRAIN",
    "LESION",
    "SEGMENT_LABEL",
    "Maker",
    "Segmentation",
    "derived_object",
    "require_derivable",
    "save_dataset",
    "source_slices",
    "write_parametric_map",
    "write_segmentation",
]

SEGMENT_LABEL = "Anomaly (IterMask3D)"
SERIES_NUMBER = 300
COLOUR_RGB = (255, 69, 0)
"""Orange-red, as viewers recommend for the abnormal; given in the file as CIELab."""

MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION = Code("52988006", "SCT", "Lesion")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
BRAIN = Code("12738006", "SCT", "Brain")


@dataclass(frozen=True)
class Maker:
    """What made a mask, for the file's header.

    Attributes:
        version: of the software.
        weights: a name or digest of the network's weights.
        corrected: whether a person changed or confirmed the mask.
        user: who that was; empty where nobody said.
    """

    version: str
    weights: str = ""
    corrected: bool = False
    user: str = ""


@dataclass(frozen=True)
class Segmentation:
    """A written file: its path, its UIDs, whether it says that nothing was found, and what was mended in its header."""

    path: Path
    series_uid: str
    instance_uid: str
    empty: bool
    remarks: tuple[str, ...] = ()


def source_slices(series_dir: Source) -> tuple[list[Dataset], tuple[str, ...]]:
    """The series that a derived object is made of, and what had to be mended in its patient and study attributes.

    Raises:
        ScanError: as :func:`itermask3d.files.dicom_slices.read_slices`, or where no derived object can be made.
    """
    slices = read_slices(series_dir)
    for keyword, expected in (("PhotometricInterpretation", "MONOCHROME2"), ("SamplesPerPixel", 1)):
        others = {data.get(keyword) for data in slices} - {expected, None, ""}
        if others:
            shown = ", ".join(sorted(map(str, others)))
            raise ScanError(f"{keyword} of the series is {shown}; expected {expected}")
    return slices, repair_identity(slices[0])


def require_derivable(shape: Sequence[int], affine: np.ndarray, series_dir: Source) -> None:
    """Check that a mask on this grid could be written over a series; nothing is written.

    Args:
        shape: of the mask, ``(I, J, K)``.
        affine: ``(4, 4)``, its voxels to RAS millimetres.
        series_dir: folder with the source series.

    Raises:
        ScanError: as :func:`write_segmentation` would.
    """
    slices, _ = source_slices(series_dir)
    frames = on_slices(np.zeros(tuple(shape), dtype=bool), affine, slices)
    _segmentation(slices, frames, Maker("0"), description="trial")


def write_segmentation(
    mask: np.ndarray,
    affine: np.ndarray,
    series_dir: Source,
    path: str | Path,
    *,
    maker: Maker,
    description: str = "",
) -> Segmentation:
    """Write a mask as a binary DICOM SEG over the series that it was drawn on.

    Every slice of the series gets a frame, also where nothing is marked: readers that rebuild a volume from the frames
    alone then return the whole grid, and an empty mask is a valid file that says so in its description.

    Args:
        mask: ``(I, J, K)``; whatever is not 0 is marked.
        affine: ``(4, 4)``, the mask's voxels to RAS millimetres. Pixels find their voxels by scanner coordinates
            through it, so any order and direction of the axes will do.
        series_dir: folder with the source series, and nothing of any other; or its files.
        path: file to write, whole or not at all.
        maker: see :class:`Maker`.
        description: SeriesDescription; default: from ``maker`` and whether anything is marked.

    Raises:
        ScanError: if the series cannot be read or the mask is not on its grid.
    """
    slices, remarks = source_slices(series_dir)
    frames = on_slices(np.asarray(mask) != 0, affine, slices)
    empty = not frames.any()
    how = "reviewed" if maker.corrected else "automatic"
    described = description or f"IterMask3D {'no finding' if empty else 'anomaly'} ({how})"
    data = _segmentation(slices, frames, maker, description=described)
    _name_finding(data, empty=empty)
    keep_character_set(data, slices[0], own_texts=(maker.user, described))
    save_dataset(data, Path(path))
    return Segmentation(Path(path), str(data.SeriesInstanceUID), str(data.SOPInstanceUID), empty, remarks)


def _segmentation(slices: Sequence[Dataset], frames: np.ndarray, maker: Maker, *, description: str) -> Dataset:
    """The object; highdicom's own refusals come as :class:`ScanError`."""
    import highdicom as hd

    empty = not frames.any()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*person name.*")  # a login is no name in DICOM's five parts
        try:
            return hd.seg.Segmentation(
                source_images=slices,
                pixel_array=frames,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_segment(maker)],
                omit_empty_frames=False,
                content_label="ANOMALY",
                content_description="No finding: nothing is marked" if empty else "Anomaly found by IterMask3D",
                content_creator_name=_person(maker.user),
                **derived_object(maker, description),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ScanError(f"no DICOM object can be derived from the series ({reason})") from error


def write_parametric_map(
    anomaly_map: np.ndarray, affine: np.ndarray, series_dir: Source, path: str | Path, *, maker: Maker
) -> str:
    """Write an anomaly map as a DICOM parametric map (float32) over its series; returns its SeriesInstanceUID.

    Arguments and errors are those of :func:`write_segmentation`; ``anomaly_map`` is finite.
    """
    import highdicom as hd

    slices, _ = source_slices(series_dir)
    frames = on_slices(np.asarray(anomaly_map, dtype=np.float32), affine, slices)
    if not np.all(np.isfinite(frames)):
        raise ScanError("the anomaly map holds values that are not finite")
    top = max(float(frames.max()), 1e-6)
    unit = Code("1", "UCUM", "no units")
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="ERROR",
        lut_explanation="reconstruction error, normalised intensity",
        unit=unit,
        value_range=(float(min(frames.min(), 0)), top),
        slope=1.0,
        intercept=0.0,
        quantity_definition=Code("246205007", "SCT", "Quantity"),
    )
    data = hd.pm.ParametricMap(
        source_images=slices,
        pixel_array=frames,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        window_center=top / 2,
        window_width=top,
        content_label="ANOMALY_MAP",
        **derived_object(maker, "IterMask3D anomaly map"),
    )
    data.BodyPartExamined = "BRAIN"
    data.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].VOILUTFunction = "LINEAR_EXACT"  # windows below 1
    keep_character_set(data, slices[0])
    save_dataset(data, Path(path))
    return str(data.SeriesInstanceUID)


def _segment(maker: Maker) -> hd.seg.SegmentDescription:
    import highdicom as hd

    values = hd.seg.SegmentAlgorithmTypeValues
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=SEGMENT_LABEL,
        segmented_property_category=MORPHOLOGICALLY_ABNORMAL,
        segmented_property_type=LESION,
        algorithm_type=values.SEMIAUTOMATIC if maker.corrected else values.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="IterMask3D",
            family=ARTIFICIAL_INTELLIGENCE,
            version=_short(maker.version),
            source="itermask3d",
            parameters={"weights": maker.weights} if maker.weights else None,
        ),
        anatomic_regions=[BRAIN],
        tracking_uid=hd.UID(),
        tracking_id="IterMask3D anomaly",
    )


def derived_object(maker: Maker, description: str) -> Mapping[str, Any]:
    """What any derived object says of itself."""
    return {
        "series_instance_uid": generate_uid(),
        "series_number": SERIES_NUMBER,
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": "IterMask3D",
        "manufacturer_model_name": "itermask3d",
        "software_versions": _short(maker.version),
        "device_serial_number": "none",
        "series_description": description[:64],
    }


def _name_finding(data: Dataset, *, empty: bool) -> None:
    segment = data.SegmentSequence[0]
    segment.SegmentDescription = "No finding" if empty else "Anomaly: unlike the normal scans of the training"
    segment.RecommendedDisplayCIELabValue = _cielab(COLOUR_RGB)


def _cielab(rgb: Sequence[int]) -> list[int]:
    """sRGB to the 16-bit CIELab of PS3.3 C.10.7.1.1 (white point D65)."""
    linear = np.asarray(rgb, dtype=float) / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ linear / to_xyz.sum(axis=1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    return [round(lightness * 65535 / 100), round((a + 128) * 65535 / 255), round((b + 128) * 65535 / 255)]


def _person(user: str) -> str | None:
    """A login as a DICOM person name: no separators, no control characters, 64 at most."""
    clean = "".join(c for c in user if c.isprintable() and c not in "^=\\").strip()[:64]
    return clean or None


def _short(text: str) -> str:
    return (text.replace("\\", " ").strip() or "unknown")[:64]


def save_dataset(data: Dataset, path: Path) -> Path:
    """Write an uncompressed object, whole or not at all; returns its path."""
    data.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    with replaced(path) as partial:
        data.save_as(partial, write_like_original=False)
    return path
