"""The settings of a synthetic hospital."""
from dataclasses import dataclass
from typing import Literal

from medical_fenlei.settings import check_seed

Disease = Literal["as_in_life", "one_mass"]
"""How diseased ears are drawn, see `HospitalSpec.disease`."""

Difficulty = Literal["usual", "hard"]
"""How far apart the classes are, see `HospitalSpec.difficulty`."""


@dataclass(frozen=True, kw_only=True)
class HospitalSpec:
    """The settings of a synthetic hospital; equal settings draw equal pixels."""

    num_exams: int = 160
    """Number of exams."""

    seed: int = 0
    """Seed of all random choices."""

    matrix: int = 256
    """Rows and columns of an image: 256, or 512 as from a scanner."""

    slices: int = 64
    """Slices of each series, over the temporal bones."""

    disease: Disease = "as_in_life"
    """as_in_life: the six codes, each with its typical changes, at similar positions in all patients. one_mass: an abnormal ear
    (code 6) differs from a healthy one only by a small round mass anywhere in the temporal bone, to test where a network
    looks."""

    difficulty: Difficulty = "usual"
    """usual: most ears show their disease clearly, all labels are right, and code 4 is frequent enough to be learnt. hard, to
    compare methods: smaller and fainter lesions, healthy ears with thickened mucosa, the same HU in all diseases, vendors that
    differ in sharpness and noise, one label in ten wrong (truth/ has the right codes), and codes as frequent as in life."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.difficulty == "hard" and self.disease != "as_in_life":
            raise ValueError(f"difficulty: got hard with --disease {self.disease}, expected as_in_life")
        if self.num_exams < 4:
            raise ValueError(f"num-exams: got {self.num_exams}, expected at least 4")
        if self.matrix not in (256, 512):
            raise ValueError(f"matrix: got {self.matrix}, expected 256 or 512")
        if not 8 <= self.slices <= 500:
            raise ValueError(f"slices: got {self.slices}, expected 8 to 500")
