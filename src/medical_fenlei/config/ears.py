"""How an ear volume is cut from a series, and the name of that way."""
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from medical_fenlei import settings

PREPROCESSING_VERSION = 3
"""Raised whenever the code gives other voxels for the same options: it is part of every cache's key."""


Sampling = Literal["even", "air_block", "roi"]


@dataclass(frozen=True, kw_only=True)
class EarSpec:
    """Everything that decides the voxels of a cached ear; each field is part of the cache key."""

    num_slices: int = 32
    """Slices K of the volume, inferior to superior."""

    image_size: int = 224
    """Rows and columns of the volume, pixels."""

    extent: Literal["crop", "half"] = "crop"
    """A square around the ear, or its whole half of the head, from the edge of the scan to the midsagittal plane."""

    crop_size: int = 192
    """Edge of the square cut around the ear, pixels of the scan."""

    crop_mm: float | None = None
    """Edge of that square in mm; where given, it replaces `crop_size`."""

    sampling: Sampling = "even"
    """Which slices: spread over the whole series; the most aerated block of neighbouring ones that holds the ear; or a block of
    `roi_mm` around it."""

    roi_mm: float = 32.0
    """Height of the block that `roi` takes around the tympanic cavity, mm."""

    target_spacing: float | None = None
    """Edge of a voxel in mm, averaged where the scan is finer; replaces crop-size and roi-mm, and does not go with crop-mm.
    Along z too, but with `even` sampling, which then gives slices of that thickness."""

    align: bool = False
    """Turn each volume upright: the columns along the normal of the midsagittal plane, the slices across it."""

    def __post_init__(self) -> None:
        for name in ("num_slices", "image_size", "crop_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        for name, low, high in (("crop_mm", 5, 300), ("roi_mm", 5, 300), ("target_spacing", 0.05, 10)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name.replace('_', '-')}: got {value}, expected {low} to {high} mm")
        if self.crop_mm is not None and self.target_spacing is not None:
            raise ValueError(f"crop-mm: got {self.crop_mm} beside target-spacing {self.target_spacing}, which fixes the field "
                             f"to image-size times as much ({self.image_size * self.target_spacing:g} mm); give one of them")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, H, W) of a volume."""
        return self.num_slices, self.image_size, self.image_size

    @property
    def nbytes(self) -> int:
        """Of a volume on the disk, int16 with the NPY header."""
        return 2 * self.num_slices * self.image_size**2 + 128

    @property
    def key(self) -> str:
        """Short name of the cache folder: readable sizes, then a hash over every option and the code's version."""
        spelt = json.dumps(self.spelt_out(), sort_keys=True)
        what = self.sampling if self.extent == "crop" else f"half_{self.sampling}"
        return f"k{self.num_slices}_s{self.image_size}_{what}_{hashlib.sha256(spelt.encode()).hexdigest()[:10]}"

    def spelt_out(self) -> dict[str, object]:
        return {**settings.to_json(self), "preprocessing_version": PREPROCESSING_VERSION}
