"""Stored pixel values of a DICOM image, whatever its transfer syntax."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_pixel_data_frame
from pydicom.uid import UID

from itermask3d.files.dicom_planes import read_number
from itermask3d.files.errors import ScanError

__all__ = ["check_length", "stored_pixels"]

SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")


def check_length(data: Dataset, name: str) -> None:
    """Refuse an uncompressed image that ends before its last pixel, without decoding it.

    Raises:
        ScanError: naming the file.
    """
    if "PixelData" not in data:
        raise ScanError(f"'{name}' has no pixels; expected a complete image")
    if data.file_meta.TransferSyntaxUID.is_compressed:
        return
    expected, bits = _expected_size(data), int(read_number(data, "BitsAllocated") or 0)
    if bits not in (8, 16, 32):
        raise ScanError(f"'{name}' has {bits} bits a pixel; expected 8, 16 or 32")
    found = len(data.PixelData or b"")
    if found < expected * bits // 8:
        raise ScanError(f"'{name}' is truncated: {found} of {expected * bits // 8} bytes of pixels; expected all")
    if found > expected * bits // 8 + 1:
        raise ScanError(f"'{name}' has {found} bytes of pixels; expected {expected * bits // 8}")


def stored_pixels(data: Dataset, name: str) -> NDArray[Any]:
    """Pixels ``(frames, rows, columns)`` as stored: neither rescaled nor windowed; unused high bits are cleared.

    Args:
        data: a whole image with its file meta information.
        name: how messages call it.

    Raises:
        ScanError: if it is truncated or damaged, or nothing here decodes its transfer syntax.
    """
    check_length(data, name)
    shape = (int(read_number(data, "NumberOfFrames") or 1), int(data.Rows), int(data.Columns))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = data.pixel_array
    except Exception as error:  # each of pydicom's decoders raises its own kinds
        if not data.file_meta.TransferSyntaxUID.is_compressed:
            raise ScanError(f"'{name}' cannot be decoded ({_line(error)}); expected a complete image") from error
        pixels = _decoded_by_itk(data, shape, name)
    if pixels.size != np.prod(shape):
        raise ScanError(f"'{name}' decodes to {pixels.size} pixels; expected {np.prod(shape)}")
    return _used_bits(pixels.reshape(shape), data, name)


def _expected_size(data: Dataset) -> int:
    frames = int(read_number(data, "NumberOfFrames") or 1)
    return frames * int(read_number(data, "Rows") or 0) * int(read_number(data, "Columns") or 0)


def _used_bits(pixels: NDArray[Any], data: Dataset, name: str) -> NDArray[Any]:
    """Clear what old scanners put into unused bits, such as overlays; extend the sign of signed values."""
    allocated = int(read_number(data, "BitsAllocated") or 0)
    stored = int(read_number(data, "BitsStored") or allocated)
    if not 0 < stored <= allocated or int(read_number(data, "HighBit") or stored - 1) != stored - 1:
        raise ScanError(
            f"'{name}' stores {stored} of {allocated} bits below bit {data.get('HighBit')}; expected all low"
        )
    unused = pixels.dtype.itemsize * 8 - stored
    if pixels.dtype.kind not in "iu" or unused <= 0:
        return pixels
    shifted = np.left_shift(pixels, unused)
    return np.right_shift(shifted, unused)


def _decoded_by_itk(data: Dataset, shape: tuple[int, int, int], name: str) -> NDArray[Any]:
    """Frame by frame through GDCM, which SimpleITK brings along: JPEG lossless and JPEG-LS, above all."""
    with tempfile.TemporaryDirectory(prefix="itermask3d-") as folder:
        try:
            frames = list(generate_pixel_data_frame(data.PixelData, shape[0]))
            pixels = [_frame_by_itk(data, frame, Path(folder) / "frame.dcm") for frame in frames]
            return np.stack(pixels)
        except Exception as error:  # GDCM and pydicom's encapsulation raise many kinds
            syntax = data.file_meta.TransferSyntaxUID.name
            raise ScanError(
                f"'{name}' cannot be decoded ({syntax}: {_line(error)}); expected a complete image in a known syntax"
            ) from error


def _frame_by_itk(data: Dataset, frame: bytes, file: Path) -> NDArray[Any]:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SECONDARY_CAPTURE, UID("1.2.3")
    meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    bare = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    bare.SOPClassUID, bare.SOPInstanceUID = SECONDARY_CAPTURE, meta.MediaStorageSOPInstanceUID
    for key in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(bare, key, data.get(key))
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    bare.PixelData = encapsulate([frame])
    bare["PixelData"].is_undefined_length = True
    bare.is_little_endian, bare.is_implicit_VR = True, False
    bare.save_as(file, write_like_original=False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    return sitk.GetArrayFromImage(reader.Execute())


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
