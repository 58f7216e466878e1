"""What makes the hard hospital hard: mild disease, healthy ears that are not clean, scanners that differ, wrong labels.

Each function takes what the usual hospital has, and a generator, and returns what the hard one has in its place.
"""
from dataclasses import replace

import numpy as np

from medical_fenlei.phantom.disease import EarChange, Mass, Region
from medical_fenlei.phantom.scanner import Scan, weighted_choice
from medical_fenlei.vocabulary import NORMAL

SEVERITY = (0.3, 0.9)
"""Range of the share of a disease's usual changes that is left."""
SOFT_HU = (50.0, 25.0)
"""Mean and standard deviation of the HU of what fills the air spaces or grows there, whatever the disease."""
LEVEL_MM = 3.0
"""How much lower a fluid level lies at most, in mm."""

LABELS = ((2626, 1), (1156, 2), (974, 3), (36, 4), (2214, 5), (686, 6))
"""How often each code is a label in a real collection."""
WRONG_LABELS = 0.1
"""Share of the labelled ears whose label is another code."""

SHARPNESS = {"SIE": ((0.15, 0.3), (90.0, 150.0), -0.35), "GE ": ((0.45, 0.65), (35.0, 60.0), 0.1),
             "UIH": ((0.3, 0.45), (70.0, 110.0), -0.1)}
"""In-plane blur (mm) and noise (HU), as ranges, and texture of the noise, by the first letters of the vendor."""


def milder(change: EarChange, rng: np.random.Generator) -> EarChange:
    """Return the same disease with smaller and fainter changes, or a healthy ear with some thickened mucosa.

    Each change is scaled towards a healthy ear by one share, drawn for the ear; HU are drawn alike for all diseases.
    """
    hu = float(np.clip(rng.normal(*SOFT_HU), 0, 110))
    if change.code == NORMAL:
        mucosa = float(rng.uniform(0.0, 0.3)) if rng.random() < 0.5 else 0.0
        fill: dict[Region, float] = {"tympanum": mucosa, "attic": mucosa, "antrum": mucosa, "cells": float(rng.uniform(0, 0.6))}
        return replace(change, fill=fill, fill_hu=hu, membrane_mm=float(rng.uniform(0.15, 0.6)),
                       retraction_mm=float(rng.uniform(0, 0.7)), sclerosis=float(rng.uniform(0, 0.5)),
                       cell_loss=float(rng.uniform(0, 0.3)))
    share = float(rng.uniform(*SEVERITY))
    masses = tuple(Mass(centre=mass.centre, radii=(mass.radii[0] * share, mass.radii[1] * share, mass.radii[2] * share),
                        hu=hu, rim=mass.rim) for mass in change.masses)
    level = None if change.level_mm is None else change.level_mm + LEVEL_MM * (1 - share)
    return replace(
        change, masses=masses, level_mm=level, fill_hu=hu, fill={region: part * share for region, part in change.fill.items()},
        ossicles={name: 1 - share * (1 - left) for name, left in change.ossicles.items()},
        scutum=1 - share * (1 - change.scutum), antrum_scale=1 + share * (change.antrum_scale - 1),
        rough_mm=change.rough_mm * share, membrane_mm=0.2 + share * (change.membrane_mm - 0.2),
        retraction_mm=change.retraction_mm * share, sclerosis=change.sclerosis * share, cell_loss=change.cell_loss * share)


def apart(scan: Scan, rng: np.random.Generator) -> Scan:
    """Return the scan with the sharpness and noise of its vendor, which those of other vendors do not share."""
    blur, noise, texture = SHARPNESS[scan.vendor[:3].upper()]
    return replace(scan, blur_mm=float(rng.uniform(*blur)), noise_hu=float(rng.uniform(*noise)), noise_texture=texture)


def misread(code: int, rng: np.random.Generator) -> int:
    """Return the code that the sheet has for an ear: its own, or in WRONG_LABELS of all ears another, mostly a frequent one."""
    if rng.random() >= WRONG_LABELS:
        return code
    others = [(number, other) for number, other in LABELS if other != code]
    total = sum(number for number, _ in others)
    return weighted_choice(rng, [(number / total, other) for number, other in others])
