"""How an ear volume is cut from a series, and the cache key that names this preprocessing."""
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from medical_fenlei import settings

PREPROCESSING_VERSION = 3
"""Increased whenever the code gives other voxels for the same options; part of every cache key."""

Sampling = Literal["even", "air_block", "roi"]


@dataclass(frozen=True, kw_only=True)
class EarSpec:
    """How the ears are cut out of the scan: every option that decides the cached voxels. Each is part of the cache key."""

    num_slices: int = 32
    """Slices K of the volume, from inferior to superior."""

    image_size: int = 224
    """Rows and columns of the volume in pixels."""

    extent: Literal["crop", "half"] = "crop"
    """crop: a square around the ear; half: its whole half of the head, from the edge of the scan to the midsagittal plane."""

    crop_size: int = 192
    """Edge of the square around the ear, in pixels of the scan; its edge in mm then depends on the pixel spacing of the series.
    --crop-mm 80 is recommended where series differ."""

    crop_mm: float | None = None
    """Edge of that square in mm; replaces --crop-size."""

    sampling: Sampling = "even"
    """even: slices spread over the whole series; air_block: the most aerated block of consecutive slices that contains the ear;
    roi: a block of --roi-mm around the ear."""

    roi_mm: float = 32.0
    """Height of the block around the tympanic cavity that --sampling roi takes, in mm."""

    target_spacing: float | None = None
    """Edge of a voxel in mm, averaged where the scan is finer; replaces --crop-size and --roi-mm, cannot be combined with
    --crop-mm. With --sampling even, it sets the thickness of the slices, not their spacing."""

    align: bool = False
    """Rotate each volume upright: columns along the normal of the midsagittal plane, slices perpendicular to it."""

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
        """Shape (K, H, W) of a volume."""
        return self.num_slices, self.image_size, self.image_size

    @property
    def fixed_edge_mm(self) -> float | None:
        """Edge of the square in mm where it is the same for all series; None where it is so many pixels of the scan."""
        return self.crop_mm if self.target_spacing is None else self.image_size * self.target_spacing

    @property
    def voxel_mm(self) -> tuple[float, float, float] | None:
        """Distance of slices, rows and columns in mm; None where it differs from series to series."""
        edge = self.fixed_edge_mm if self.extent == "crop" or self.target_spacing else None
        between = self.target_spacing if self.sampling != "even" else None
        between = between or (self.roi_mm / self.num_slices if self.sampling == "roi" else None)
        return None if edge is None or between is None else (between, edge / self.image_size, edge / self.image_size)

    @property
    def nbytes(self) -> int:
        """Bytes of a volume on disk: int16 with the NPY header."""
        return 2 * self.num_slices * self.image_size**2 + 128

    @property
    def key(self) -> str:
        """Name of the cache folder: readable sizes, then a hash over every option and the version of the code."""
        spelt = json.dumps(self.spelt_out(), sort_keys=True)
        what = self.sampling if self.extent == "crop" else f"half_{self.sampling}"
        return f"k{self.num_slices}_s{self.image_size}_{what}_{hashlib.sha256(spelt.encode()).hexdigest()[:10]}"

    def spelt_out(self) -> dict[str, object]:
        """Every option and the preprocessing version as plain values: the content of `spec.json`."""
        return {**settings.to_json(self), "preprocessing_version": PREPROCESSING_VERSION}
