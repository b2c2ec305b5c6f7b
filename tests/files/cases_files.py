"""NIfTI, Analyze, MGH, NRRD and MetaImage, whole and faulty, and what is right for each."""

from __future__ import annotations

import bz2
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from faulty import (
    OBLIQUE,
    SHAPE,
    TO_LPS,
    UPRIGHT,
    VALUES,
    Case,
    edit_header,
    flipped,
    gzipped,
    meta_bytes,
    meta_text,
    mgh_bytes,
    nifti_bytes,
    nrrd_bytes,
    nrrd_text,
    raw,
    written,
)

ASSUMED = np.diag([-1.0, 1.25, 2.0, 1.0])
"""Where nibabel puts a file that tells voxel sizes only: left first, its middle at the scanner's centre."""

ASSUMED[:3, 3] = -ASSUMED[:3, :3] @ (np.array(SHAPE) - 1) / 2
SHEARED, MOVED = UPRIGHT.copy(), UPRIGHT.copy()
SHEARED[0, 2] = 0.4
MOVED[:3, 3] += (9, 0, 0)


def nifti(name: str = "scan.nii", **how: Any) -> Any:
    return written(name, lambda: nifti_bytes(**how))


def zipped(change: Any = lambda content: content, **how: Any) -> Any:
    return written("scan.nii.gz", lambda: change(gzipped(nifti_bytes(**how))))


def pair(*names: str, kind: Any = nib.Nifti1Pair, keep: tuple[str, ...] = ()) -> Any:
    """Header and image; the first name is what is read."""

    def build(folder: Path) -> Path:
        affine = None if kind is nib.AnalyzeImage else UPRIGHT
        image = kind(VALUES, affine)
        if affine is None:
            image.header.set_zooms((1.0, 1.25, 2.0))
        nib.save(image, folder / names[0])
        for extra in set(folder.iterdir()):
            if keep and extra.name not in keep:
                extra.unlink()
        return folder / names[0]

    return build


def scaled() -> bytes:
    return nifti_bytes(np.round((VALUES + 100) / 0.5).astype(np.int16), scl_slope=0.5, scl_inter=-100.0)


def colours() -> bytes:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nifti_bytes(np.zeros(SHAPE, kind))


def with_nan(share: float) -> np.ndarray:
    values = VALUES.astype(np.float32)
    values.ravel()[: int(share * values.size)] = np.nan
    return values


def mgh_edited(at: int, content: bytes) -> bytes:
    whole = mgh_bytes()
    return whole[:at] + content + whole[at + len(content) :]


def beside(name: str, header: Any, data: str, payload: Any) -> Any:
    def build(folder: Path) -> Path:
        (folder / data).parent.mkdir(exist_ok=True)
        (folder / data).write_bytes(payload())
        (folder / name).write_text(header())
        return folder / name

    return build


def nrrd(payload: Any = None, **fields: Any) -> Any:
    return written("scan.nrrd", lambda: nrrd_bytes(payload() if payload else None, **fields))


def mha(payload: Any = None, **fields: Any) -> Any:
    return written("scan.mha", lambda: meta_bytes(payload() if payload else None, **fields))


def in_space(signs: tuple[int, int, int], space: str) -> Any:
    """The same place, told in another space."""
    turned = TO_LPS @ np.diag([*signs, 1.0]) @ UPRIGHT
    return written("scan.nrrd", lambda: nrrd_bytes(affine=turned, space=space))


def no_space(folder: Path) -> Path:
    (folder / "scan.nrrd").write_bytes(nrrd_bytes(space=None, space_dimension="3"))
    return folder / "scan.nrrd"


def huge() -> bytes:
    content = bytearray(nifti_bytes())
    edit_header(content, dim__1=1100, dim__2=1100, dim__3=1100)
    return gzipped(bytes(content))


LARGE = "1100 x 1100 x 1100 voxels, which need 5.0 GiB"
SPACINGS = {"space": None, "space_directions": None, "space_origin": None}
NIFTI_CASES = [
    Case("nifti", nifti()),
    Case("nifti gz", zipped()),
    Case("nifti upper case", written("SCAN.NII.GZ", lambda: gzipped(nifti_bytes()))),
    Case("nifti gz under a plain name", written("scan.nii", lambda: gzipped(nifti_bytes()))),
    Case("nifti plain under a gz name", written("scan.nii.gz", nifti_bytes)),
    Case("nifti gz in two members", zipped(lambda c: gzipped(nifti_bytes()[:700]) + gzipped(nifti_bytes()[700:]))),
    Case("nifti big endian", nifti(big_endian=True)),
    Case("nifti-2", nifti(kind=nib.Nifti2Image)),
    Case("nifti-2 big endian", nifti(kind=nib.Nifti2Image, big_endian=True)),
    Case("nifti pair by image", pair("scan.img", "scan.hdr")),
    Case("nifti pair by header", pair("scan.hdr", "scan.img")),
    Case("nifti pair gz", pair("scan.img.gz", "scan.hdr.gz")),
    Case("nifti pair without header", pair("scan.img", keep=("scan.img",)), r"no 'scan\.hdr' beside it"),
    Case("nifti oblique", nifti(affine=OBLIQUE), affine=OBLIQUE),
    Case("nifti float64", nifti(values=VALUES.astype(np.float64))),
    Case("nifti uint16", nifti(values=VALUES.astype(np.uint16))),
    Case("nifti slope and intercept", written("scan.nii", scaled)),
    Case("nifti slope 0", nifti(scl_slope=0.0, scl_inter=5.0)),
    Case("nifti slope not a number", nifti(scl_slope=np.nan, scl_inter=np.nan)),
    Case("nifti 4D of one", nifti(values=VALUES[..., None])),
    Case("nifti qform only", nifti(codes=(0, 1))),
    Case("nifti sform before qform", nifti(codes=(2, 1), qform=MOVED), warned=r"up to 9\.0 mm apart; the sform"),
    Case("nifti sform and qform nearly", nifti(codes=(1, 1), qform=UPRIGHT + 1e-4 * np.eye(4)[:, [3, 0, 1, 2]])),
    Case("nifti pixdim told otherwise", nifti(pixdim=[1, 1, 1, 1, 0, 0, 0, 0])),
    Case("nifti both codes 0", nifti(codes=(0, 0)),
         warned="does not say which side is left: qform_code", affine=ASSUMED),
    Case("analyze", pair("scan.img", kind=nib.AnalyzeImage), warned="the Analyze format", affine=ASSUMED),
    Case("nifti padded", written("scan.nii", lambda: nifti_bytes() + b"\0" * 8)),
    Case("nifti sheared", nifti(affine=SHEARED),
         affine=SHEARED),
    Case("nifti code 7", nifti(sform_code=7), "the sform_code 7; expected 0 to 5"),
    Case("nifti handedness", nifti(codes=(0, 1), pixdim__0=-0.5), "the handedness -0.5"),
    Case("nifti truncated", written("scan.nii", lambda: nifti_bytes()[:-300]), "is truncated: 300 of"),
    Case("nifti header truncated", written("scan.nii", lambda: nifti_bytes()[:200]), "is truncated"),
    Case("nifti too long", written("scan.nii", lambda: nifti_bytes() + b"\0" * 4000), "holds more than the 2160 bytes"),
    Case("nifti garbage behind", written("scan.nii", lambda: nifti_bytes() + b"abc"), "holds more than"),
    Case("nifti gz truncated", zipped(lambda c: c[:-500]), "damaged or truncated"),
    Case("nifti gz without its end", zipped(lambda c: c[:-8]), "damaged"),
    Case("nifti gz bit flipped", zipped(lambda c: flipped(c, 0.5)), "damaged|holds"),
    Case("nifti gz check sum", zipped(lambda c: c[:-8] + b"\1\2\3\4" + c[-4:]), "CRC"),
    Case("nifti gz length", zipped(lambda c: c[:-1] + b"\7"), "damaged"),
    Case("nifti gz garbage behind", zipped(lambda c: c + b"garbage"), "damaged .*gzip"),
    Case("nifti complex", nifti(values=VALUES.astype(np.complex64)), "complex values; expected real ones"),
    Case("nifti colours", written("scan.nii", colours), "holds colours"),
    Case("nifti 4D of three", nifti(values=np.stack([VALUES] * 3, -1)), r"holds 3 volumes \(12 x 10 x 9 x 3\)"),
    Case("nifti 2D", nifti(values=VALUES[..., 0]), "expected three axes"),
    Case("nifti one slice", nifti(values=VALUES[..., :1]), "expected three axes"),
    Case("nifti too large", written("scan.nii.gz", huge), LARGE),
    Case("nifti promises too much", zipped(dim__1=600, dim__2=600, dim__3=200), r"promises \d+ bytes|truncated"),
    Case("nifti over the caller's limit", nifti(), "expected at most 0.0 GiB", options={"memory_limit_bytes": 4000}),
    Case("nifti negative size", nifti(dim__2=-5), "positive sizes|cannot be"),
    Case("nifti no axes", nifti(dim__0=0), "has 0 axes"),
    Case("nifti micrometres", nifti(xyzt_units=3), "measured in micrometres"),
    Case("nifti metres", nifti(xyzt_units=1), "measured in metres"),
    Case("nifti place not a number", nifti(srow_x=[np.nan, 0, 0, 0]), "no usable place"),
    Case("nifti place flat", nifti(srow_z=[0, 0, 0, 1]), "voxels of 1 x 1.25 x 0 mm"),
    Case("nifti axes in a plane", nifti(srow_z=[0, 0, 0, 1], srow_x=[1, 0, 3, 1]), "in one plane"),
    Case("nifti quaternion", nifti(codes=(0, 1), quatern_b=2.0, quatern_c=2.0), "a header that cannot be"),
    Case("nifti voxels in the header", nifti(vox_offset=100), "cannot be|inside its header"),
    Case("nifti type unknown", nifti(datatype=9999), "cannot be|unknown"),
    Case("nifti no magic", nifti(magic=b"abc"), "no NIfTI magic"),
    Case("nifti header of a pair", nifti(magic=b"ni1"), "the header of a pair of files"),
    Case("nifti is text", written("scan.nii", lambda: b"dear all, " * 90), "does not begin with a NIfTI header"),
    Case("nifti is empty", written("scan.nii.gz", lambda: b""), "is empty"),
    Case("nifti nothing finite", nifti(values=with_nan(1)), "no finite value"),
    Case("nifti beyond float32", nifti(values=VALUES * 1e300), "beyond 3.4e38"),
    Case("nifti missing", lambda folder: folder / "nowhere.nii", "does not exist"),
    Case("unknown format", written("scan.foo", lambda: b"1234"), "of no known format"),
]  # fmt: skip

MGH_CASES = [
    Case("mgh", written("scan.mgh", mgh_bytes)),
    Case("mgz", written("scan.mgz", lambda: gzipped(mgh_bytes()))),
    Case("mgz oblique", written("scan.mgz", lambda: gzipped(mgh_bytes(affine=OBLIQUE))), affine=OBLIQUE),
    Case("mgh with tags", written("scan.mgh", lambda: mgh_bytes() + b"\0\0\0\3" + b"history" * 400)),
    Case(
        "mgh without place",
        written("scan.mgh", lambda: mgh_edited(28, b"\0\0")),
        warned="goodRASFlag is 0",
        affine=np.array([[-1.0, 0, 0, 6], [0, 0, 1, -4.5], [0, -1, 0, 5], [0, 0, 0, 1]]),
    ),
    Case("mgh truncated", written("scan.mgh", lambda: mgh_bytes()[:1500]), "is truncated"),
    Case("mgz truncated", written("scan.mgz", lambda: gzipped(mgh_bytes())[:-99]), "truncated"),
    Case("mgz bit flipped", written("scan.mgz", lambda: flipped(gzipped(mgh_bytes()), 0.6)), "damaged|truncated"),
    Case("mgh version", written("scan.mgh", lambda: mgh_edited(0, b"\0\0\0\2")), "MGH header of version 1"),
    Case("mgh type", written("scan.mgh", lambda: mgh_edited(20, b"\0\0\0\7")), "MGH's type 7"),
    Case("mgh of two", written("scan.mgh", lambda: mgh_edited(16, b"\0\0\0\2")), "holds 2 volumes"),
    Case("mgh no voxel size", written("scan.mgh", lambda: mgh_edited(30, b"\0\0\0\0")), "voxels of 0 x"),
]

NRRD_CASES = [
    Case("nrrd", nrrd()),
    Case("nrrd gzip", nrrd(lambda: gzipped(raw()), encoding="gzip")),
    Case("nrrd bzip2", nrrd(lambda: bz2.compress(raw()), encoding="bzip2")),
    Case("nrrd big endian", nrrd(lambda: raw(">i2"), endian="big")),
    Case("nrrd oblique", nrrd(affine=OBLIQUE), affine=OBLIQUE),
    Case("nrrd RAS", in_space((1, 1, 1), "right-anterior-superior")),
    Case("nrrd LAS", in_space((-1, 1, 1), "LAS")),
    Case("nrrd detached", beside("scan.nhdr", lambda: nrrd_text(data_file="scan.raw"), "scan.raw", raw)),
    Case("nrrd detached, skipped", beside("scan.nhdr", lambda: nrrd_text(data_file="scan.raw", byte_skip="-1"),
                                         "scan.raw", lambda: b"skip" + raw())),
    Case("nrrd no space", no_space, warned="it names no space"),
    Case("nrrd other space", nrrd(space="scanner-xyz"), warned="its space is 'scanner-xyz'"),
    Case("nrrd spacings only", nrrd(spacings="1 1.25 2", **SPACINGS), warned="no space",
         affine=np.diag([-1.0, -1.25, 2.0, 1.0])),
    Case("nrrd no spacing", nrrd(**SPACINGS), "tells no voxel sizes"),
    Case("nrrd truncated", nrrd(lambda: raw()[:-10]), "is truncated: 10 of"),
    Case("nrrd too long", nrrd(lambda: raw() + b"\1" * 10), "holds more than"),
    Case("nrrd gzip truncated", nrrd(lambda: gzipped(raw())[:-99], encoding="gzip"), "truncated"),
    Case("nrrd gzip bit flipped", nrrd(lambda: flipped(gzipped(raw()), 0.4), encoding="gzip"), "damaged"),
    Case("nrrd bzip2 bit flipped", nrrd(lambda: flipped(bz2.compress(raw()), 0.4), encoding="bzip2"), "damaged"),
    Case("nrrd detached truncated", beside("scan.nhdr", lambda: nrrd_text(data_file="scan.raw"), "scan.raw",
                                          lambda: raw()[:-1]), "is truncated: 1 of"),
    Case("nrrd data elsewhere", written("scan.nhdr", lambda: nrrd_text(data_file="/etc/passwd").encode()),
         "its own folder"),
    Case("nrrd data above", written("scan.nhdr", lambda: nrrd_text(data_file="../x.raw").encode()), "its own folder"),
    Case("nrrd data missing", written("scan.nhdr", lambda: nrrd_text(data_file="x.raw").encode()), "no 'x.raw' beside"),
    Case("nrrd data a list", written("scan.nhdr", lambda: nrrd_text(data_file="LIST").encode()), "several files"),
    Case("nrrd as text", nrrd(encoding="ascii"), "the encoding 'ascii'"),
    Case("nrrd no byte order", nrrd(endian=None), "order of its bytes"),
    Case("nrrd type", nrrd(type="block"), "the type 'block'"),
    Case("nrrd vectors", nrrd(shape=(3, 12, 10, 9), space_directions="none (1,0,0) (0,1,0) (0,0,1)"),
         "holds 9 volumes"),
    Case("nrrd sizes", nrrd(sizes="12 10 x"), "expected whole numbers"),
    Case("nrrd axes", nrrd(dimension="4"), "4 axes and 3 sizes"),
    Case("nrrd no sizes", nrrd(sizes=None), "without 'sizes'"),
    Case("nrrd odd line", nrrd(kinds="a\nfoo"), "an odd line"),
    Case("nrrd too large", nrrd(sizes="1100 1100 1100"), LARGE),
    Case("nrrd is text", written("scan.nrrd", lambda: b"hello\nyou\n"), "does not begin with an NRRD header"),
    Case("nrrd vector of two", nrrd(space_origin="(1,2)"), "expected three numbers"),
    Case("nrrd metres", nrrd(space_units='"m" "m" "m"'), "expected millimetres"),
]  # fmt: skip

META_CASES = [
    Case("mha", mha()),
    Case("mha oblique", mha(affine=OBLIQUE), affine=OBLIQUE),
    Case("mha compressed", mha(lambda: zlib.compress(raw()), CompressedData="True")),
    Case("mha big endian", mha(lambda: raw(">i2"), BinaryDataByteOrderMSB="True")),
    Case("mhd", beside("scan.mhd", lambda: meta_text(ElementDataFile="scan.raw"), "scan.raw", raw)),
    Case("mhd skipped", beside("scan.mhd", lambda: meta_text(ElementDataFile="scan.raw", HeaderSize="-1"), "scan.raw",
                              lambda: b"skip" + raw())),
    Case("mha no directions", mha(TransformMatrix=None, AnatomicalOrientation="RAI"),
         warned="which side is left: it has no TransformMatrix",
         affine=UPRIGHT @ np.diag([-1.0, -1.0, 1.0, 1.0])),
    Case("mha truncated", mha(lambda: raw()[:-10]), "is truncated: 10 of"),
    Case("mha too long", mha(lambda: raw() + b"\1" * 10), "holds more than"),
    Case("mha compressed truncated", mha(lambda: zlib.compress(raw())[:-99], CompressedData="True"), "truncated"),
    Case("mha compressed bit flipped", mha(lambda: flipped(zlib.compress(raw()), 0.5), CompressedData="True"),
         "damaged"),
    Case("mha compressed, more behind", mha(lambda: zlib.compress(raw()) + b"x", CompressedData="True"), "damaged"),
    Case("mhd truncated", beside("scan.mhd", lambda: meta_text(ElementDataFile="scan.raw"), "scan.raw",
                                lambda: raw()[:-1]), "is truncated: 1 of"),
    Case("mha channels", mha(ElementNumberOfChannels="3"), "ElementNumberOfChannels = 3"),
    Case("mha as text", mha(BinaryData="False"), "BinaryData = False"),
    Case("mha a list", mha(ElementDataFile="LIST"), "several files|no 'LIST'"),
    Case("mha no spacing", mha(ElementSpacing=None), "tells no voxel sizes"),
    Case("mha spacing of two", mha(ElementSpacing="1 1"), "expected 3 numbers"),
    Case("mha type", mha(ElementType="MET_OTHER"), "the type 'MET_OTHER'"),
    Case("mha no sizes", mha(DimSize=None), "without 'DimSize'"),
    Case("mha of two", mha(lambda: raw() * 2, shape=(12, 10, 9, 2), TransformMatrix=None, Offset=None,
                           ElementSpacing="1 1 1 1"), "holds 2 volumes"),
    Case("mha too large", mha(DimSize="1100 1100 1100"), LARGE),
    Case("mha is text", written("scan.mha", lambda: b"hello\n"), "no MetaImage header"),
]  # fmt: skip

FILE_CASES = [*NIFTI_CASES, *MGH_CASES, *NRRD_CASES, *META_CASES]
