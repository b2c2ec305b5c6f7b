"""Which contrast an MR series shows: from the words of its description, else from its timing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["CONTRASTS", "Acquisition", "contrast_of_name", "guess_contrast"]

CONTRASTS = (
    "T1",
    "T1c",
    "T2",
    "FLAIR",
    "PD",
    "DWI",
    "SWI",
    "angiography",
    "perfusion",
    "functional",
    "localizer",
    "derived",
    "unknown",
)
"""``T1c`` is T1 with contrast agent, ``SWI`` any T2*, ``derived`` what was computed from other images."""


@dataclass(frozen=True)
class Acquisition:
    """What a header says of how an image was made; ``None`` or empty where it says nothing.

    Attributes:
        words: description, protocol and sequence names.
        image_type: DICOM's ImageType in capitals.
        agent: ContrastBolusAgent.
        scanning_sequence: ``SE``, ``GR``, ``IR``, ``EP`` …
        repetition_ms, echo_ms, inversion_ms, flip_degrees: TR, TE, TI and flip angle.
        angiography: AngioFlag.
        diffusion: whether a b-value is given.
    """

    words: str = ""
    image_type: tuple[str, ...] = ()
    agent: str = ""
    scanning_sequence: frozenset[str] = field(default_factory=frozenset)
    repetition_ms: float | None = None
    echo_ms: float | None = None
    inversion_ms: float | None = None
    flip_degrees: float | None = None
    angiography: bool = False
    diffusion: bool = False


def _pattern(*words: str) -> re.Pattern[str]:
    return re.compile(r"(?<![a-z0-9])(?:" + "|".join(words) + r")(?![a-z])")


T1_WORDS = _pattern(
    r"(?:3d|2d|ax|sag|cor|tra)?t1\w*", r"\w*mp2?\s?rage\w*", r"f?spgr\w*", "bravo", r"\w*vibe\w*", r"tfl\w*", "mdeft",
    r"(?:3d|t1)?[uq]?tfe\w*", r"turbo\s?flash", "lava", "thrive", "mprnr", r"fl[23]d\w*",
)  # fmt: skip
T2_WORDS = _pattern(r"(?:3d|2d|ax|sag|cor|tra)?t2\w*", "stir", "tirm", "haste", "ciss", "fiesta", r"drive")
PD_WORDS = _pattern("pd", r"pdw?", r"proton\s?density")
FLAIR_WORDS = re.compile("flair|dark\\s?fluid")
CONTRAST_WORDS = re.compile(
    r"(?<![a-z])(?:post(?!erior)(?!\s?fossa)|gd(?!c)\w*|gad\w*|t1\w?\s?(?:gd|ce|post)(?![a-z])|t1w?c(?![a-z])|ce(?![a-z])|contrast"
    r"|km(?![a-z])|enhanced|inj(?:ected)?(?![a-z])|c\+)|\+\s?(?:c|gd|gad|km|contrast)(?![a-z])"
)
WITHOUT_CONTRAST_WORDS = re.compile(
    r"(?<![a-z])(?:pre|nativ\w*|unenhanced|(?:no|non|without|w\s?o|ohne|sans)\s(?:gd|gad\w*|contrast|km|c|iv))(?![a-z])"
)
NO_AGENT = {"", "no", "none", "n", "na", "nil", "without", "no contrast", "non", "unknown", "0"}

OTHER_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("localizer", _pattern(r"localis?z?er\w*", "scout", "survey", "loc", r"3\s?plane\w*", "aahead", r"autoalign\w*")),
    ("derived", _pattern(r"m(?:in)?ips?", r"mp[rv]\s?range\w*", r"sub(?:traction)?", r"(?:b0|field)\s?map\w*",
                         "fieldmapping", r"(?:t1|t2|r1|r2)\s?(?:star)?\s?maps?", r"phase\s?(?:image|map)s?",
                         "screenshot")),
    ("DWI", _pattern(r"dwi\w*", r"dti\w*", r"diff\w*", r"e?adc\w*", r"trace\w*", r"hardi", r"b\d{3,4}", "noddi", "ivim",
                     "fa", "colfa")),
    ("perfusion", _pattern(r"perf\w*", r"p?c?asl", "dsc", "dce", "pwi", r"r?cb[fv]", "mtt", "ttp", "tmax")),
    ("functional", _pattern(r"bold\w*", r"r?s?fmri\w*", r"rest(?:ing)?(?:\s?state)?", "sbref", r"task\w*")),
    ("angiography", _pattern(r"(?:3d)?tof\w*", r"m?r?angio\w*", r"c?e?mr[av]", r"venogra\w*", "pca", "inhance")),
    ("SWI", _pattern("swi", "swan", r"venobold", r"suscept\w*", r"t2\s?(?:\*|star)\w*", r"hemo\w*", "qsm",
                     r"t2\w*\s(?:gre|ffe|fl2d|fl3d)", r"(?:gre|ffe)\s\w*\s?t2\w*", "merge", "medic")),
)  # fmt: skip
"""Words that decide against T1, T2, PD and FLAIR, in the order in which they are looked for."""

BIDS_SUFFIXES = {
    "T2w": "T2", "FLAIR": "FLAIR", "PDw": "PD", "PDT2": "PD", "dwi": "DWI", "bold": "functional", "sbref": "functional",
    "asl": "perfusion", "angio": "angiography", "T2starw": "SWI", "T2star": "SWI", "swi": "SWI", "T1map": "derived",
    "T2map": "derived", "R1map": "derived", "MTRmap": "derived", "localizer": "localizer", "scout": "localizer",
}  # fmt: skip
"""With which a name in the form of BIDS ends, and the contrast; any other name says nothing."""

DERIVED_TYPES = {
    "SECONDARY": "images computed from others",
    "MPR": "a reformatted view",
    "PROJECTION IMAGE": "a projection",
    "MIP": "a projection",
    "MNIP": "a projection",
    "SUBTRACTION": "a subtraction",
    "SCREEN SAVE": "a screenshot",
    "ADC": "a diffusion map",
    "FA": "a diffusion map",
    "PHASE MAP": "a phase image",
    "P": "a phase image",
    "B0 MAP": "a field map",
    "T1 MAP": "a map of relaxation times",
    "T2 MAP": "a map of relaxation times",
}


def guess_contrast(found: Acquisition) -> tuple[str, str]:
    """Name the contrast and say why.

    Returns:
        One of :data:`CONTRASTS`, and a clause for people.
    """
    words = _plain(found.words)
    decided = _by_image_type(found.image_type) or _by_other_words(words, found)
    if decided:
        return decided
    contrast, reason = _by_words(words, found) or _by_timing(found)
    if contrast in ("T1", "unknown") and (why := _agent(words, found.agent)):
        return "T1c", f"{reason}, and {why}"
    return contrast, reason


def contrast_of_name(name: str) -> str:
    """The contrast, other than T1, that the name of a file tells by the rules of BIDS; empty where it tells none.

    >>> contrast_of_name("sub-01_acq-space_T2w"), contrast_of_name("sub-01_ce-gad_T1w"), contrast_of_name("with space")
    ('T2', 'T1c', '')
    """
    *entities, suffix = name.split("_")
    if not entities:
        return ""
    agent = suffix == "T1w" and any(entity.startswith("ce-") for entity in entities)
    return "T1c" if agent else BIDS_SUFFIXES.get(suffix, "")


def _plain(words: str) -> str:
    """Lower case with single blanks between words; ``+`` and ``*`` mean something and stay."""
    return re.sub(r"[^a-z0-9+*]+", " ", words.lower()).strip()


def _by_image_type(image_type: tuple[str, ...]) -> tuple[str, str] | None:
    if "LOCALIZER" in image_type:
        return "localizer", "the image type says localizer"
    for value, meaning in DERIVED_TYPES.items():
        if value in image_type[1:]:
            return "derived", f"the image type '{value}' means {meaning}"
    return None


def _by_other_words(words: str, found: Acquisition) -> tuple[str, str] | None:
    if "mp2rage" in words and (match := _pattern(r"inv\s?[12]").search(words)):
        return "derived", f"'{match.group()}' is one of the two inversion images of MP2RAGE, not its T1 image"
    for contrast, pattern in OTHER_WORDS:
        if match := pattern.search(words):
            return contrast, f"the description says '{match.group()}'"
    if found.diffusion:
        return "DWI", "a diffusion b-value is given"
    if found.angiography:
        return "angiography", "the header's angiography flag is set"
    return None


def _by_words(words: str, found: Acquisition) -> tuple[str, str] | None:
    t1, t2, pd, flair = (p.search(words) for p in (T1_WORDS, T2_WORDS, PD_WORDS, FLAIR_WORDS))
    explicit_t1 = re.search(r"(?<![a-z])(?:3d|2d|ax|sag|cor|tra)?t1", words)
    if flair:
        if explicit_t1 and not t2:
            return "T1", "the description says T1 FLAIR"
        return "FLAIR", f"the description says '{flair.group()}'"
    if t1 and t2 and not explicit_t1:
        t1 = None  # 't2 tfe', 't2 fl3d': the sequence is one that mostly, not always, gives T1
    named = [(name, match.group()) for name, match in (("T1", t1), ("T2", t2), ("PD", pd)) if match]
    if len(named) == 1:
        return named[0][0], f"the description says '{named[0][1]}'"
    if not named and re.search(r"(?<![a-z])(?:tse|fse|space|cube|vista|blade|propeller)(?![a-z])", words):
        contrast, reason = _by_timing(found)
        return (contrast, reason) if contrast != "unknown" else ("T2", "a turbo spin echo, mostly T2")
    return None


def _by_timing(found: Acquisition) -> tuple[str, str]:
    """Rules of thumb for 1.5 to 3 T; spoiled gradient echoes and MPRAGE are told by their short TE."""
    tr, te, ti = found.repetition_ms, found.echo_ms, found.inversion_ms
    if "EP" in found.scanning_sequence:
        return "functional", "echo planar images without a b-value are mostly functional"
    if not tr or te is None:
        return "unknown", "neither the description nor the timing tells the contrast"
    timing = f"TR {tr:.0f} ms, TE {te:.1f} ms" + (f", TI {ti:.0f} ms" if ti else "")
    contrast = _gradient_echo(tr, te, ti, found.flip_degrees) if _is_gradient_echo(found) else _spin_echo(tr, te, ti)
    if contrast == "unknown":
        return contrast, f"the description is silent and {timing} is typical of no contrast"
    return contrast, f"{timing} is typical of {contrast}"


def _is_gradient_echo(found: Acquisition) -> bool:
    if found.scanning_sequence & {"GR", "SE"}:
        return "GR" in found.scanning_sequence
    return (found.echo_ms or 0) < 7


def _gradient_echo(tr: float, te: float, ti: float | None, flip_degrees: float | None) -> str:
    if te >= 12:
        return "SWI"
    if tr >= 1000:
        return "T1" if te < 8 and (ti is None or 500 <= ti <= 1400) else "unknown"
    if tr < 60 and te < 8:
        return "unknown" if flip_degrees is not None and flip_degrees < 6 else "T1"
    return "T1" if tr < 400 and te < 8 and (flip_degrees or 60) >= 50 else "unknown"


def _spin_echo(tr: float, te: float, ti: float | None) -> str:
    if ti and ti >= 1400 and te >= 60:
        return "FLAIR"
    if tr <= 1000 and te <= 30:
        return "T1"
    if ti and 500 <= ti < 1400 and te <= 30:
        return "T1"
    if tr >= 1800 and not ti:
        return "T2" if te >= 60 else "PD" if te <= 45 else "unknown"
    return "unknown"


def _agent(words: str, agent: str) -> str:
    """Why a contrast agent is in play; empty where none is."""
    if WITHOUT_CONTRAST_WORDS.search(words):
        return ""
    if match := CONTRAST_WORDS.search(words):
        return f"the description says '{match.group().strip()}' (contrast agent)"
    if _plain(agent) not in NO_AGENT:
        return f"a contrast agent is named ('{agent}')"
    return ""
