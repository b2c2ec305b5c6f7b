"""Who and when of a DICOM header, made fit for a derived object: repaired where the meaning is plain, else left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from pydicom.charset import convert_encodings, encode_string
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from itermask3d.files.dicom_files import BROKEN

__all__ = ["keep_character_set", "repair_identity"]

UNICODE = "ISO_IR 192"
MAX_YEARS = 150
SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O"}
IDENTITY_GROUPS = (0x0008, 0x0010, 0x0032)
"""Groups of attributes whose values are decoded once, to find those that cannot be."""


def repair_identity(data: Dataset) -> tuple[str, ...]:
    """Make patient and study attributes of a header valid, in place.

    A value whose meaning is plain is written as DICOM has it (``m`` becomes ``M``, ``1970-01-01`` becomes
    ``19700101``, ``45Y`` becomes ``045Y``); any other invalid value is emptied, because a derived object with it would
    be refused.

    Returns:
        One sentence for each value that was changed; it names the attribute, the value and what became of it.
    """
    return (*_drop_undecodable(data), *_repair_values(data))


def keep_character_set(data: Dataset, source: Dataset, *, own_texts: tuple[str, ...] = ()) -> None:
    """Give a derived object the source's character set, so that its names are those of the source byte by byte.

    Args:
        data: with attributes copied from ``source``.
        source: the header.
        own_texts: texts of ``data`` that do not come from the source; where the source's character set lacks one of
            their letters, the whole object is in Unicode (``ISO_IR 192``), with the same names.
    """
    found = source.get("SpecificCharacterSet")
    names = [found] if isinstance(found, str) or not found else list(found)
    if all(_can_hold(text, names) for text in own_texts):
        if found:
            data.SpecificCharacterSet = found
        return
    for element in data:
        if element.VR == "PN" and element.value:
            element.value = _in_unicode(element.value)
    data.SpecificCharacterSet = UNICODE


def _in_unicode(value: Any) -> Any:
    if isinstance(value, PersonName):
        return PersonName(str(value), encodings=[UNICODE])
    return [PersonName(str(one), encodings=[UNICODE]) for one in value]


def _can_hold(text: str, names: list[Any]) -> bool:
    if text.isascii():
        return True
    if not any(names):
        return False
    try:
        encodings = convert_encodings([str(name or "") for name in names])
        return all(encode_string(letter, encodings).decode(errors="replace") != "?" for letter in text)
    except (LookupError, UnicodeError, ValueError):
        return False


def _drop_undecodable(data: Dataset) -> Iterator[str]:
    for tag in [tag for tag in data.keys() if tag.group in IDENTITY_GROUPS]:  # noqa: SIM118 - iterating would decode
        try:
            data[tag].value  # noqa: B018 - reading it decodes it
        except BROKEN as error:
            del data[tag]
            yield f"attribute {tag} of the header cannot be read ({type(error).__name__}) and was left out"


def _repair_values(data: Dataset) -> Iterator[str]:
    for keyword, (mend, expected) in MENDERS.items():
        value = data.get(keyword)
        text = "" if value is None else str(value).strip()
        if not text:
            continue
        mended = mend(text)
        if mended == str(value):
            continue
        setattr(data, keyword, mended)
        became = f"was saved as '{mended}'" if mended else "was left out"
        yield f"{keyword} '{text[:40]}' is not what DICOM expects ({expected}) and {became}"


def _sex(text: str) -> str:
    return SEXES.get(text.upper(), "")


def _date(text: str) -> str:
    """``YYYYMMDD``; also from the ISO form and the one of ACR-NEMA, whose order of year, month and day is plain."""
    match = re.fullmatch(r"(\d{4})([-./ ]?)(\d{2})\2(\d{2})(?:[T ].*)?", text)
    if not match:
        return ""
    plain = match[1] + match[3] + match[4]
    try:
        datetime.strptime(plain, "%Y%m%d")
    except ValueError:
        return ""
    return plain


def _time(text: str) -> str:
    """``HHMMSS.FFFFFF`` or a beginning of it; also with colons."""
    match = re.fullmatch(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d{1,6})?)?)?", text)
    if not match or int(match[1]) > 23 or int(match[2] or 0) > 59 or int(match[3] or 0) > 60:
        return ""
    return "".join(part or "" for part in match.groups())


def _age(text: str) -> str:
    match = re.fullmatch(r"(\d{1,3})\s*([DWMYdwmy])", text)
    if not match or (match[2] in "Yy" and int(match[1]) > MAX_YEARS):
        return ""
    return f"{int(match[1]):03d}{match[2].upper()}"


MENDERS: dict[str, tuple[Callable[[str], str], str]] = {
    "PatientSex": (_sex, "M, F or O"),
    "PatientBirthDate": (_date, "YYYYMMDD"),
    "StudyDate": (_date, "YYYYMMDD"),
    "PatientBirthTime": (_time, "HHMMSS"),
    "StudyTime": (_time, "HHMMSS"),
    "PatientAge": (_age, "three digits and D, W, M or Y"),
}
"""By attribute: what makes its value valid, empty where nothing can, and the valid form in words."""
