"""Simulated CT acquisition: voxel grid, sharpness, noise, and the format of stored values."""
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medical_fenlei.spatial import Affine

Array = np.ndarray
T = TypeVar("T")
PatientPosition = Literal["HFS", "FFS", "HFP", "FFP"]
FileOrder = Literal["forward", "reverse", "shuffled"]
SpacingTag = Literal["absent", "positive", "negative"]


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """The format of stored values: stored = (HU - intercept) / slope, clipped to the range of the bits."""

    bits: int = 16
    signed: bool = True
    intercept: float = 0.0
    slope: float = 1.0
    padding: int | None = None
    """Stored value outside the reconstruction circle, if the scanner pads."""

    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest stored value."""
        return (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.signed else (0, (1 << self.bits) - 1)


CLASSIC = PixelFormat(bits=12, signed=False, intercept=-1024)
SIGNED = PixelFormat(bits=16, signed=True, intercept=0)
EXTENDED = PixelFormat(bits=16, signed=False, intercept=-8192)
PADDED = PixelFormat(bits=16, signed=True, intercept=-1024, padding=-2000)
INVERTED = PixelFormat(bits=16, signed=True, intercept=-1024, photometric="MONOCHROME1")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The parameters of one CT series: scanner, geometry, sharpness and noise, storage. Lengths in mm."""

    vendor: str = "SIEMENS"
    model: str = "Sensation 64"
    kernel: tuple[str, ...] = ("U75u",)
    matrix: int = 256
    fov_mm: float = 220.0
    n_slices: int = 64
    increment_mm: float = 0.6
    thickness_mm: float = 0.6
    columns_to: Literal["left", "right"] = "left"
    rows_to: Literal["posterior", "anterior"] = "posterior"
    slices_to: Literal["head", "feet"] = "head"
    gantry_tilt_deg: float = 0.0
    stored_order: FileOrder = "forward"
    """Order of files and instance numbers relative to the slice axis of the volume."""

    patient_position: PatientPosition = "HFS"
    transfer_syntax: str = str(ExplicitVRLittleEndian)
    pixel_format: PixelFormat = field(default_factory=lambda: SIGNED)
    blur_mm: float = 0.3
    """Standard deviation of the in-plane point spread function."""

    noise_hu: float = 60.0
    """Standard deviation of the noise."""

    noise_texture: float = -0.3
    """Correlation of neighboring pixels: negative for the fine grain of a sharp kernel, positive for a smooth kernel."""

    kvp: float = 120.0
    spacing_tag: SpacingTag = "absent"

    @property
    def pixel_mm(self) -> float:
        """Edge of a pixel."""
        return self.fov_mm / self.matrix

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        return self.n_slices, self.matrix, self.matrix

    @property
    def gravity_lps(self) -> Array:
        """Direction of gravity (3,): to the back of a supine patient, to the face of a prone patient."""
        return np.array([0.0, 1.0 if self.patient_position.endswith("S") else -1.0, 0.0])

    def affine(self, centre_lps: Array) -> Affine:
        """Return the map from voxel index to patient LPS mm, with the volume centred on this point."""
        tilt = np.deg2rad(self.gantry_tilt_deg)
        column = np.array([1.0, 0, 0]) * (1 if self.columns_to == "left" else -1)
        row = np.array([0, np.cos(tilt), np.sin(tilt)]) * (1 if self.rows_to == "posterior" else -1)
        slices = np.array([0, 0, 1.0]) * (1 if self.slices_to == "head" else -1)
        steps = [slices * self.increment_mm / np.cos(tilt), row * self.pixel_mm, column * self.pixel_mm]
        return Affine.centred(steps, self.shape, centre_lps)


_BONE_SCANNERS = (
    (0.30, Scan(vendor="SIEMENS", model="Sensation 64", kernel=("U75u",), pixel_format=CLASSIC, noise_texture=-0.35)),
    (0.16, Scan(vendor="Siemens Healthineers", model="SOMATOM Force", kernel=("Ur73u", "1"), pixel_format=EXTENDED,
                noise_texture=-0.25)),
    (0.08, Scan(vendor="SIEMENS", model="SOMATOM Force", kernel=("Ur69u", "2"), pixel_format=SIGNED, noise_texture=-0.2)),
    (0.16, Scan(vendor="GE MEDICAL SYSTEMS", model="Discovery CT750 HD", kernel=("BONEPLUS2",), pixel_format=PADDED,
                noise_texture=-0.3)),
    (0.10, Scan(vendor="GE MEDICAL SYSTEMS", model="Revolution EVO", kernel=("BONEPLUS",), pixel_format=PADDED,
                noise_texture=-0.25)),
    (0.10, Scan(vendor="UIH", model="uCT 780", kernel=("H_VSHARP_C",), pixel_format=INVERTED, noise_texture=-0.3)),
    (0.10, Scan(vendor="UIH", model="uCT 780", kernel=("H_SHARP_C",), pixel_format=SIGNED, noise_texture=-0.2)),
)
"""Scanners with their share of the exams; one vendor occurs in two spellings, as in real headers."""

_SYNTAXES = ((0.45, ExplicitVRLittleEndian), (0.15, ImplicitVRLittleEndian), (0.2, JPEGLSLossless), (0.2, RLELossless))
_POSITIONS: tuple[tuple[float, PatientPosition], ...] = ((0.85, "HFS"), (0.12, "FFS"), (0.03, "HFP"))
_ORDERS: tuple[tuple[float, FileOrder], ...] = ((0.6, "forward"), (0.3, "reverse"), (0.1, "shuffled"))
_SPACING_TAGS: tuple[tuple[float, SpacingTag], ...] = ((0.8, "absent"), (0.2, "positive"))
"""Some scanners write negative values, which DICOM forbids: only tests do so."""


def weighted_choice(rng: np.random.Generator, shares: Sequence[tuple[float, T]]) -> T:
    """Return one of the values, each with the probability of its share."""
    return shares[rng.choice(len(shares), p=[share for share, _ in shares])][1]


def sample_scan(rng: np.random.Generator, matrix: int = 256, n_slices: int = 64) -> Scan:
    """Sample a temporal-bone series of 36 to 44 mm with a bone kernel, on a random scanner and in a random storage format."""
    scanner = weighted_choice(rng, _BONE_SCANNERS)
    increment = round(float(rng.uniform(36, 44)) / n_slices, 3)
    usual = rng.random() < 0.8                                   # standard axial orientation
    tilt = round(float(rng.normal(0, 5)), 1) if rng.random() < 0.08 else 0.0
    return replace(
        scanner, matrix=matrix, n_slices=n_slices, fov_mm=round(float(rng.uniform(205, 240)), 1), increment_mm=increment,
        thickness_mm=max(0.4, round(increment * float(rng.choice([1.0, 1.0, 1.25])), 2)),
        columns_to="left" if usual or rng.random() < 0.5 else "right",
        rows_to="posterior" if usual or rng.random() < 0.5 else "anterior",
        slices_to="head" if rng.random() < 0.5 else "feet", gantry_tilt_deg=tilt, stored_order=weighted_choice(rng, _ORDERS),
        patient_position=weighted_choice(rng, _POSITIONS), transfer_syntax=str(weighted_choice(rng, _SYNTAXES)),
        blur_mm=float(rng.uniform(0.2, 0.4)), noise_hu=float(rng.uniform(40, 100)),
        kvp=float(rng.choice([100.0, 120.0, 140.0], p=[0.1, 0.75, 0.15])), spacing_tag=weighted_choice(rng, _SPACING_TAGS),
    )


def _three_taps(plane: Array, weight: float) -> None:
    """Add `weight` times its neighbors to each pixel, in place along the last two axes (rows, then columns)."""
    for axis in (-2, -1):
        view = np.moveaxis(plane, axis, -1)
        neighbors = np.zeros_like(view)
        neighbors[..., 1:] += view[..., :-1]
        neighbors[..., :-1] += view[..., 1:]
        view += np.float32(weight) * neighbors


def acquire(hu: Array, scan: Scan, rng: np.random.Generator, pixel_mm: float | None = None) -> Array:
    """Return the volume as reconstructed by the scanner: in-plane blur, then correlated noise, strongest inside the head.

    hu: float32 HU (K, H, W), changed in place; returns int16 HU of the same shape. pixel_mm: pixel edge, by default that of the
    scan.
    """
    pixel = pixel_mm or scan.pixel_mm
    variance = (scan.blur_mm / pixel) ** 2
    side = variance / 2 if variance < 0.5 else 0.25
    out = np.empty(hu.shape, np.int16)
    r, c = (np.linspace(-1, 1, n, dtype=np.float32) for n in hu.shape[1:])
    envelope = 0.65 + 0.5 * np.exp(-2.0 * (r[:, None] ** 2 + c**2))
    weight = scan.noise_texture
    envelope *= np.float32(scan.noise_hu / (1 + 2 * weight**2))
    edges = 1 + side / (1 - 2 * side) * np.float32(1)
    for k in range(len(hu)):
        plane = hu[k]
        for _ in range(max(1, round(variance / 0.5))):
            _three_taps(plane, side / (1 - 2 * side))
            plane *= np.float32((1 - 2 * side) ** 2)
            for line in (plane[0], plane[-1], plane[:, 0], plane[:, -1]):
                line *= np.float32(1 / (1 - 2 * side) / edges)
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        _three_taps(noise, weight)
        noise *= envelope
        noise += plane
        np.rint(noise, out=noise)
        out[k] = np.clip(noise, -1024, 3071)
    return out
