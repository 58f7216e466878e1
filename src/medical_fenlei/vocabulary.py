"""Terms that every room uses: sides of the head, structures of the ear, diagnosis codes, sets of a split, manufacturers."""
import re
import unicodedata
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Side(StrEnum):
    """A side of the patient, never of the image."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def sign(self) -> int:
        """Sign of x on this side in patient coordinates (LPS: +x is left)."""
        return 1 if self is Side.LEFT else -1

    @property
    def other(self) -> "Side":
        """The opposite side."""
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


SIDES = (Side.LEFT, Side.RIGHT)
"""Both sides in the order of axis E of a batch."""


class Structure(IntEnum):
    """A structure of the temporal bone; the number of its voxels in a segmentation."""

    OTHER = 0
    """Everything else: other bone, brain, muscle, air outside."""

    CAVITY = 1
    """The middle ear: tympanic cavity with attic and Eustachian tube, aditus, antrum, a surgical cavity; air or not."""

    CANAL = 2
    """The external auditory canal, air or wax."""

    CELLS = 3
    """The mastoid air cells with the walls between them, air or not."""

    OSSICLES = 4
    """Malleus, incus and stapes."""

    OTIC_CAPSULE = 5
    """The bone of the inner ear, with cochlea, vestibule and semicircular canals."""

    FACIAL_CANAL = 6
    """The canal of the facial nerve."""

    SINUS = 7
    """The sigmoid sinus and the jugular bulb."""


class EarPoint(IntEnum):
    """A point of the temporal bone; its place in an array of landmarks."""

    TYMPANUM = 0
    """The middle of the tympanic cavity."""

    MASTOID = 1
    """The middle of the mastoid."""

    VESTIBULE = 2
    """The middle of the vestibule of the inner ear."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A diagnosis code with its names."""

    code: int
    """Code in the label sheet, 1 to 6."""

    key: str
    """Short name for columns and files."""

    english: str
    """Name in English."""

    chinese: str
    """Name in Chinese."""

    @property
    def class_id(self) -> int:
        """Index of the class in `six_class`, 0 to 5."""
        return self.code - 1


DIAGNOSES = {
    d.code: d
    for d in (
        Diagnosis(code=1, key="csom", english="chronic suppurative otitis media", chinese="慢性化脓性中耳炎"),
        Diagnosis(code=2, key="cholesteatoma", english="middle-ear cholesteatoma", chinese="中耳胆脂瘤"),
        Diagnosis(code=3, key="ome", english="otitis media with effusion", chinese="分泌性中耳炎"),
        Diagnosis(code=4, key="cholesterol_granuloma", english="cholesterol granuloma", chinese="胆固醇肉芽肿"),
        Diagnosis(code=5, key="normal", english="normal", chinese="正常"),
        Diagnosis(code=6, key="other", english="other", chinese="其他"),
    )
}
AIR = -1000
"""HU of air, and of every voxel without data."""
NORMAL = 5
"""Code of a normal ear."""
UNLABELLED = 0
"""Code of an ear without a label, wherever codes are stored as integers."""

SETS = ("train", "tune", "val", "test")
"""The sets of a split."""
WHOLE_MANIFEST = "manifest"
"""Name of a further set: every ear of a manifest, whatever its split. A cohort is such a set with a name of its own."""

VENDORS = {
    "Neusoft": ("neusoft", "东软", "nms", "pnms", "neuviz"),
    "Siemens": ("siemens", "西门子"),
    "UIH": ("uih", "united imaging", "unitedimaging", "联影"),
    "Philips": ("philips", "飞利浦", "marconi", "picker", "elscint", "adac"),
    "Canon": ("canon", "toshiba", "佳能", "东芝"),
    "FUJIFILM": ("fujifilm", "hitachi", "日立", "富士"),
    "MinFound": ("minfound", "明峰"),
    "Anke": ("anke", "安科"),
    "SinoVision": ("sinovision", "赛诺威盛"),
    "Samsung": ("samsung", "neurologica"),
    "Morita": ("morita",), "NewTom": ("newtom", "qr srl", "qr s r l"), "Planmeca": ("planmeca",),
    "Carestream": ("carestream", "kodak dental"), "Sirona": ("sirona",), "KaVo": ("kavo", "imaging sciences"),
    "Vatech": ("vatech",), "Xoran": ("xoran",), "LargeV": ("largev", "朗视"), "Meyer": ("hefei meyer", "美亚光电"),
    "GE": ("ge", "general electric", "gems", "gehc", "g e", "ge medical", "gemedical", "gehealthcare", "通用电气"),
}
"""Words that identify a scanner manufacturer, in any spelling; the first that matches counts. Neusoft comes before Philips,
with which it had a joint venture (PNMS). Canon took over Toshiba's CT scanners in 2018, FUJIFILM those of Hitachi in 2021, and
Philips those of Picker, Marconi and Elscint before."""

_DISTINCT = 6
"""Letters from which on a word identifies a manufacturer also inside of another word (`SIEMENSHealthineers`)."""


def vendor(manufacturer: str) -> str:
    """The standard name of a scanner manufacturer; an unknown manufacturer keeps the text of the header."""
    words = re.sub(r"[\W_]+", " ", f" {unicodedata.normalize('NFKC', manufacturer).casefold()} ")

    def has(word: str) -> bool:
        return word in words if len(word) >= _DISTINCT or not word.isascii() else f" {word} " in words

    return next((name for name, known in VENDORS.items() if any(map(has, known))), manufacturer.strip())


def plural(number: int, noun: str) -> str:
    """Return `1 exam` or `2 exams`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
