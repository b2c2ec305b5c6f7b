"""DICOM series, whole and faulty, and what is right for each."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from faulty import (
    CT,
    OBLIQUE,
    UPRIGHT,
    VALUES,
    Case,
    again,
    blank,
    brighter,
    change,
    decimals,
    each,
    edited,
    enhanced,
    moved,
    mr_slices,
    one,
    put_pixels,
    save,
)
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, generate_pixel_data_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

SHEARED = UPRIGHT.copy()
SHEARED[1, 2] = 0.5


def slanted(slices: list[FileDataset]) -> None:
    for index, data in enumerate(slices):
        moved(data, (0, -0.5 * index, 0))


def scaled_each(slices: list[FileDataset]) -> None:
    for index, data in enumerate(slices):
        slope = (0.5, 0.25)[index % 2]
        put_pixels(data, (VALUES[:, :, index] + 40.0) / slope)
        data.RescaleSlope, data.RescaleIntercept = str(slope), "-40"


def stored_as(dtype: str, high: int = 0, bits: int | None = None) -> Any:
    """An edit that stores pixels as another type, or in few bits with something above them."""

    def edit(slices: list[FileDataset]) -> None:
        for index, data in enumerate(slices):
            put_pixels(data, VALUES[:, :, index].astype(np.int64) | high, dtype)
            if bits is not None:
                data.BitsStored, data.HighBit = bits, bits - 1

    return edit


def in_syntax(uid: Any, little: bool = True, implicit: bool = False) -> Any:
    def edit(slices: list[FileDataset]) -> None:
        for data in slices:
            data.file_meta.TransferSyntaxUID = uid
            data.is_little_endian, data.is_implicit_VR = little, implicit
            if not little:
                data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()

    return edit


def run_lengths(slices: list[FileDataset]) -> None:
    for data in slices:
        data.compress(RLELossless, np.frombuffer(data.PixelData, "<i2").reshape(data.Rows, data.Columns))


def by_gdcm(compressor: str) -> Any:
    """An edit that compresses pixels by GDCM."""

    def edit(slices: list[FileDataset]) -> None:
        for index, data in enumerate(slices):
            with tempfile.TemporaryDirectory() as folder:
                writer = sitk.ImageFileWriter()
                writer.SetFileName(f"{folder}/a.dcm")
                writer.SetUseCompression(True)
                writer.SetCompressor(compressor)
                writer.Execute(sitk.GetImageFromArray(VALUES[:, :, index].T[None]))
                compressed = dcmread(f"{folder}/a.dcm")
            assert compressed.file_meta.TransferSyntaxUID.is_compressed
            data.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
            frame = next(iter(generate_pixel_data_frame(compressed.PixelData, 1)))
            data.PixelData = encapsulate([frame])
            data["PixelData"].is_undefined_length = True

    return edit


def with_file(name: str, content: bytes) -> Any:
    def build(folder: Path) -> Path:
        series = save(mr_slices(), folder / "series")
        (series / name).write_bytes(content)
        return series

    return build


def cut(share: float) -> Any:
    """The file of one slice ends early."""

    def build(folder: Path) -> Path:
        series = save(mr_slices(), folder / "series")
        file = sorted(series.iterdir())[4]
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        return series

    return build


def bare_files(folder: Path) -> Path:
    """Neither preamble nor meta information."""
    series = folder / "series"
    series.mkdir()
    for index, data in enumerate(mr_slices()):
        plain = Dataset(data)
        plain.is_little_endian, plain.is_implicit_VR = True, True
        plain.save_as(series / f"IM{index}", write_like_original=True)
    return series


def no_preamble(folder: Path) -> Path:
    """The meta information, without the 132 bytes before it."""
    series = save(mr_slices(), folder / "series")
    for file in series.iterdir():
        file.write_bytes(file.read_bytes()[132:])
    return series


def two_folders(folder: Path) -> list[Path]:
    slices = mr_slices()
    save(slices[::2], folder / "a")
    save(slices[1::2], folder / "b")
    return [*(folder / "a").iterdir(), *(folder / "b").iterdir()]


def report_beside(folder: Path) -> Path:
    series = save(mr_slices(), folder / "series")
    report = blank("1.2.840.10008.5.1.4.1.1.88.11")
    report.SeriesInstanceUID = generate_uid()
    report.save_as(series / "report.sr", write_like_original=False)
    return series


def multi(data: FileDataset, folder: Path) -> Path:
    return save([data], folder / "series")


def multi_edit(**attributes: Any) -> Any:
    def build(folder: Path) -> Path:
        data = enhanced()
        change(data, **attributes)
        return multi(data, folder)

    return build


def lost_position(folder: Path) -> Path:
    data = enhanced()
    del data.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
    return multi(data, folder)


def lost_group(folder: Path) -> Path:
    data = enhanced()
    data.PerFrameFunctionalGroupsSequence.pop()
    return multi(data, folder)


def short_pixels(folder: Path) -> Path:
    data = enhanced()
    data.PixelData = data.PixelData[:-400]
    return multi(data, folder)


def localizer(slices: list[FileDataset]) -> list[FileDataset]:
    extra = again(slices[:3], ImageOrientationPatient=["0", "1", "0", "0", "0", "-1"])
    return slices + extra


def two_echoes(slices: list[FileDataset]) -> list[FileDataset]:
    return slices + [change(data, EchoTime="80") or data for data in brighter(slices)]


def other_echoes(slices: list[FileDataset]) -> None:
    for data in slices[::2]:
        data.EchoTime = "80"


def other_inversions(slices: list[FileDataset]) -> None:
    for index, data in enumerate(slices):
        data.InversionTime = ("900", "2500")[index % 2]


def half_a_phase(slices: list[FileDataset]) -> None:
    for data in slices[5:]:
        data.ImageType = ["ORIGINAL", "PRIMARY", "PHASE MAP"]


def two_points(slices: list[FileDataset]) -> list[FileDataset]:
    later = brighter(slices)
    for index, data in enumerate([*slices, *later]):
        data.TemporalPositionIdentifier = 1 + index // len(slices)
    return slices + later


def two_series(slices: list[FileDataset]) -> list[FileDataset]:
    return slices + again(slices, SeriesInstanceUID=generate_uid())


def turned(slices: list[FileDataset]) -> None:
    for data in slices[5:]:
        angle = np.deg2rad(3)
        data.ImageOrientationPatient = decimals([-np.cos(angle), np.sin(angle), 0, -np.sin(angle), -np.cos(angle), 0])


def cropped(slices: list[FileDataset]) -> None:
    put_pixels(slices[2], VALUES[:-1, :, 2])


def renumbered(slices: list[FileDataset]) -> None:
    for index, data in enumerate(slices):
        data.InstanceNumber = index + 11


LOST_Z = r"lacks 1 of 9 slices, at -22\.0 mm"

DICOM_CASES = [
    Case("dicom as made", edited(lambda s: None)),
    Case("dicom oblique", edited(lambda s: None, affine=OBLIQUE), affine=OBLIQUE),
    Case("dicom files in reverse", edited(lambda s: s[::-1])),
    Case("dicom CT", edited(each(Modality="CT"), SOPClassUID=CT)),
    Case("dicom one slice missing", edited(lambda s: s[:4] + s[5:]), LOST_Z),
    Case("dicom three slices missing", edited(lambda s: s[:3] + s[6:]), r"lacks 3 of 9.*-24\.0, -22\.0, -20\.0 mm"),
    Case("dicom two apart missing", edited(lambda s: s[:2] + s[3:6] + s[7:]), r"lacks 2 of 9.*-26\.0, -18\.0 mm"),
    Case("dicom oblique slice missing", edited(lambda s: s[:4] + s[5:], affine=OBLIQUE), "lacks 1 of 9 slices"),
    Case("dicom sheared slice missing", edited(lambda s: slanted(s) or (s[:4] + s[5:])), LOST_Z),
    Case("dicom identical copies", edited(lambda s: s + again(s[2:6])), warned="4 identical copies"),
    Case("dicom all twice", edited(lambda s: s + again(s)), warned="9 identical copies"),
    Case("dicom other copies", edited(lambda s: s + brighter(s[2:4])),
         r"different images at one place, at -26\.0, -24"),
    Case("dicom other slope", edited(lambda s: s + again(s[2:3], RescaleSlope="2")), "different images at one place"),
    Case("dicom all twice, other", edited(lambda s: s + brighter(s)), "holds 2 volumes of 9 slices"),
    Case("dicom no positions", edited(each(ImagePositionPatient=None)), "has no ImagePositionPatient"),
    Case("dicom one without position", edited(one(3, ImagePositionPatient=None)), "has no ImagePositionPatient"),
    Case("dicom empty position", edited(one(3, ImagePositionPatient="")), "has no ImagePositionPatient"),
    Case("dicom half a position", edited(one(3, ImagePositionPatient=["1", "2"])), "expected 3 numbers"),
    Case("dicom position far away", edited(one(3, ImagePositionPatient=["1e9", "0", "0"])),
         "from the scanner's centre"),
    Case("dicom no orientation", edited(each(ImageOrientationPatient=None)), "has no ImageOrientationPatient"),
    Case("dicom no pixel spacing", edited(each(PixelSpacing=None)), "has no PixelSpacing"),
    Case("dicom pixels of 0 mm", edited(each(PixelSpacing=["0", "1"])), "has pixels of 0 x 1 mm"),
    Case("dicom orientation too short", edited(each(ImageOrientationPatient=decimals([-0.9, 0, 0, 0, -0.9, 0]))),
         r"length is 0\.100 off; expected length 1"),
    Case("dicom orientation not square", edited(each(ImageOrientationPatient=decimals([-1, 0, 0, -0.1, -0.995, 0]))),
         "degrees apart; expected a right angle"),
    Case("dicom turned half", edited(turned), r"2 orientations \(5 and 4\)"),
    Case("dicom localizer inside", edited(localizer), r"2 orientations \(9 and 3\)"),
    Case("dicom two echoes", edited(two_echoes), r"2 volumes of 9 slices \(EchoTime 2\.98, 80"),
    Case("dicom echoes mixed", edited(other_echoes), "mixes images of EchoTime"),
    Case("dicom inversion times mixed", edited(other_inversions), "mixes images of InversionTime 900, 2500"),
    Case("dicom phase", edited(each(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])), "holds 9 phase images of 9"),
    Case("dicom phase by its component", edited(each(ComplexImageComponent="PHASE")), "holds 9 phase images of 9"),
    Case("dicom half a phase", edited(half_a_phase), "holds 4 phase images of 9"),
    Case("dicom two time points", edited(two_points), r"2 volumes of 9 slices \(TemporalPosition 1, 2"),
    Case("dicom two patients", edited(one(4, PatientID="P2")), "images of 2 patients"),
    Case("dicom two birth dates", edited(one(4, PatientBirthDate="19700102"), PatientBirthDate="19700101"),
         "images of 2 patients"),
    Case("dicom two studies", edited(one(4, StudyInstanceUID="1.2.3")), "images of 2 studies"),
    Case("dicom two frames of reference", edited(one(4, FrameOfReferenceUID="1.2.3")), "2 frames of reference"),
    Case("dicom two series", edited(two_series), "images of 2 series"),
    Case("dicom gantry tilt", edited(slanted), warned=r"slant of 14\.0 degrees", affine=SHEARED),
    Case("dicom a slice beside", edited(lambda s: moved(s[4], (1, 0, 0))), r"a slice 1\.00 mm beside the line"),
    Case("dicom unequal gaps", edited(lambda s: moved(s[4], (0, 0, 0.4))), r"slices 1\.60 to 2\.40 mm apart"),
    Case("dicom gaps of rounding", edited(lambda s: moved(s[4], (0, 0, 0.0004)))),
    Case("dicom pixel spacings", edited(one(4, PixelSpacing=["1.25", "1.01"])), "expected one spacing"),
    Case("dicom sizes", edited(cropped), "images of 12 x 10 and 11 x 10 pixels"),
    Case("dicom MONOCHROME1", edited(each(PhotometricInterpretation="MONOCHROME1")), r"MONOCHROME1; expected grey"),
    Case("dicom colours", edited(each(SamplesPerPixel=3, PhotometricInterpretation="RGB")), "RGB; expected grey|bytes"),
    Case("dicom secondary capture", edited(each(), SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
         "is a Secondary Capture Image Storage; expected MR"),
    Case("dicom mosaic", edited(each(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])), "is a mosaic"),
    Case("dicom slope of each slice", edited(scaled_each)),
    Case("dicom slope 0", edited(each(RescaleSlope="0")), "RescaleSlope of 0"),
    Case("dicom slope infinite", edited(one(3, RescaleSlope="1e400")), "expected a number|damaged"),
    Case("dicom lookup table", edited(each(ModalityLUTSequence=[Dataset()])), "a table in place of a rescale slope"),
    Case("dicom 12 bits and overlay", edited(stored_as("<u2", high=0xA000, bits=12))),
    Case("dicom 32 bits", edited(stored_as("<u4"))),
    Case("dicom 12 bits high", edited(lambda s: [change(d, BitsStored=12, HighBit=15) for d in s] and None), "all low"),
    Case("dicom implicit", edited(in_syntax(ImplicitVRLittleEndian, implicit=True))),
    Case("dicom big endian", edited(in_syntax(ExplicitVRBigEndian, little=False))),
    Case("dicom deflated", edited(in_syntax(DeflatedExplicitVRLittleEndian))),
    Case("dicom RLE", edited(run_lengths)),
    Case("dicom JPEG lossless", edited(by_gdcm("JPEG"))),
    Case("dicom JPEG 2000", edited(by_gdcm("JPEG2000"))),
    Case("dicom RLE, empty frames", edited(lambda s: run_lengths(s) or one(3, PixelData=encapsulate([b"\0\0"]))(s)),
         r"\.dcm' cannot be decoded"),
    Case("dicom lossy", edited(each(LossyImageCompression="01")), warned="compressed with loss"),
    Case("dicom without preamble", no_preamble),
    Case("dicom without meta information", bare_files),
    Case("dicom empty file", with_file("0005.dcm", b""), r"0005\.dcm' is empty"),
    Case("dicom garbage", with_file("0005.dcm", b"\xff\xd8" * 500), r"0005\.dcm' is (no DICOM|truncated)"),
    Case("dicom pixels cut", cut(0.99), "is truncated: .* bytes of pixels"),
    Case("dicom header cut", cut(0.5), r"\.dcm' is truncated"),
    Case("dicom preamble cut", cut(0.05), r"\.dcm' is (no DICOM|truncated)"),
    Case("dicom notes beside", with_file("notes.txt", b"see me"), warned=r"1 files.*notes\.txt"),
    Case("dicom .DS_Store beside", with_file(".DS_Store", b"\0\1")),
    Case("dicom index beside", with_file("DICOMDIR", b"")),
    Case("dicom report beside", report_beside, warned=r"report\.sr"),
    Case("dicom one slice", edited(lambda s: s[:1]), "a single slice"),
    Case("dicom two folders", two_folders),
    Case("dicom spacing told otherwise", edited(each(SpacingBetweenSlices="1")), warned="tells 1 mm .* positions 2 mm"),
    Case("dicom first slices lost", edited(renumbered), warned="numbered 11 to 19"),
    Case("dicom last slices lost", edited(each(ImagesInAcquisition=11)), warned="tells of 11 images and 9"),
    Case("dicom one UID for all", edited(each(SOPInstanceUID="1.2.3")), warned="share a SOPInstanceUID"),
    Case("dicom too large", edited(lambda s: None), "expected at most|a series of at most",
         options={"memory_limit_bytes": 4000}),
    Case("dicom no files", lambda folder: folder, "holds no DICOM image"),
    Case("dicom missing folder", lambda folder: folder / "nowhere", "does not exist"),
    Case("enhanced", lambda folder: multi(enhanced(), folder)),
    Case("enhanced oblique", lambda folder: multi(enhanced(affine=OBLIQUE), folder), affine=OBLIQUE),
    Case("enhanced as a file", lambda folder: multi(enhanced(), folder) / "0000.dcm"),
    Case("enhanced frames in disorder",
         lambda folder: multi(enhanced(frames=[{"k": k} for k in (3, 0, 8, 1, 7, 2, 6, 4, 5)]), folder)),
    Case("enhanced frame missing",
         lambda folder: multi(enhanced(frames=[{"k": k} for k in (0, 1, 2, 3, 5, 6, 7, 8)]), folder), LOST_Z),
    Case("enhanced two b-values",
         lambda folder: multi(enhanced(frames=[{"k": k, "b": b} for b in (0, 1000) for k in range(9)]), folder),
         r"2 volumes of 9 slices \(DiffusionBValue 0, 1000"),
    Case("enhanced two echoes",
         lambda folder: multi(enhanced(frames=[{"k": k, "echo": e} for k in range(9) for e in (2, 5)]), folder),
         r"2 volumes of 9 slices \(EchoTime 2, 5"),
    Case("enhanced frame without position", lost_position, r"frame 4' has no ImagePositionPatient"),
    Case("enhanced group missing", lost_group, "describes 8 of 9 frames"),
    Case("enhanced pixels cut", short_pixels, "is truncated"),
    Case("enhanced no groups", multi_edit(PerFrameFunctionalGroupsSequence=None), "9 frames without a place"),
    Case("enhanced more frames told", multi_edit(NumberOfFrames=11), "is truncated|11 frames"),
]  # fmt: skip
