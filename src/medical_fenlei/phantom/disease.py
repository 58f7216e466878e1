"""What each of the six codes changes in one ear. Everything here is data; `temporal_bone` paints it.

Places are in the ear frame (mm): u from the midline outwards, y to the back, z up, the tympanic cavity's centre at (42, 0, 0).
"""
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medical_fenlei.vocabulary import NORMAL

Region = Literal["tympanum", "attic", "antrum", "cells"]
REGIONS: tuple[Region, ...] = ("tympanum", "attic", "antrum", "cells")


@dataclass(frozen=True, kw_only=True)
class Mass:
    """A smooth soft-tissue mass that replaces what lies in its place, bone included."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    rim: bool = False
    """A thin shell of bone is kept around it."""


@dataclass(frozen=True, kw_only=True)
class EarChange:
    """One ear's difference from a healthy one. The defaults are a healthy ear."""

    code: int = 5
    kind: str = "healthy"
    fill: dict[Region, float] = field(default_factory=dict)
    """Share of each air space that soft tissue or fluid takes, 0 to 1."""

    fill_hu: float = 30.0
    level_mm: float | None = None
    """A fluid level: what lies deeper than this along gravity, from the tympanic centre, is fluid."""

    masses: tuple[Mass, ...] = ()
    ossicles: dict[str, float] = field(default_factory=dict)
    """What is left of malleus, incus and stapes, 0 to 1 (default 1)."""

    scutum: float = 1.0
    """What is left of the scutum."""

    antrum_scale: float = 1.0
    tegmen_open: bool = False
    rough_mm: float = 0.0
    """Roughness of the walls of the air spaces."""

    membrane_mm: float = 0.2
    retraction_mm: float = 0.0
    sclerosis: float = 0.0
    """Added to the bone around the cells, 0 (as the ear is) to 1 (ivory)."""

    cell_loss: float = 0.0
    """Share of the pneumatisation lost."""

    capsule_spot_hu: float | None = None
    """Otosclerosis: HU of a spot before the oval window."""

    fracture: bool = False
    atresia: bool = False
    cavity: float = 0.0
    """Size of a surgical cavity, 0 (none) to 1."""


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _healthy(rng: np.random.Generator) -> EarChange:
    stray = _between(rng, 0.0, 0.6) if rng.random() < 0.5 else 0.0            # filled cells alone mean nothing
    return EarChange(fill={"cells": stray}, fill_hu=_between(rng, 10, 80), membrane_mm=_between(rng, 0.15, 0.3))


def _csom(rng: np.random.Generator) -> EarChange:
    return EarChange(
        code=1, kind="csom",
        fill={"tympanum": _between(rng, 0.55, 1.0), "attic": _between(rng, 0.6, 1.0), "antrum": _between(rng, 0.55, 1.0),
              "cells": _between(rng, 0.1, 0.7)},
        fill_hu=float(np.clip(rng.normal(86, 27), 30, 140)), rough_mm=_between(rng, 0.4, 0.9),
        membrane_mm=_between(rng, 0.8, 1.6), retraction_mm=_between(rng, 0.0, 1.5),
        ossicles={"malleus": _between(rng, 0.85, 1), "incus": _between(rng, 0.6, 1), "stapes": _between(rng, 0.5, 1)},
        sclerosis=_between(rng, 0.2, 0.9), cell_loss=_between(rng, 0.0, 0.3),
    )


def _cholesteatoma(rng: np.random.Generator) -> EarChange:
    hu = float(np.clip(rng.normal(43, 24), 0, 100))
    size = _between(rng, 0.85, 1.35)
    masses = [Mass(centre=(44.0, 0.6, 4.4), radii=(2.9 * size, 4.6 * size, 3.4 * size), hu=hu)]      # Prussak's space, attic
    if rng.random() < 0.92:                                                                         # aditus and antrum
        masses.append(Mass(centre=(44.2, 6.4, 6.4), radii=(3.0 * size, 4.2 * size, 3.0 * size), hu=hu))
        masses.append(Mass(centre=(45.0, 10.5, 7.5), radii=(4.6 * size, 5.4 * size, 4.2 * size), hu=hu))
    if rng.random() < 0.45:                                                                         # downwards
        masses.append(Mass(centre=(42.4, 1.5, 0.5), radii=(2.2, 3.5 * size, 3.5), hu=hu))
    eroded = rng.random() < 0.92
    return EarChange(
        code=2, kind="cholesteatoma", masses=tuple(masses),
        fill={"tympanum": _between(rng, 0.0, 0.8), "attic": _between(rng, 0.6, 1.0), "antrum": _between(rng, 0.6, 1.0),
              "cells": _between(rng, 0.1, 0.7)},
        fill_hu=hu, scutum=_between(rng, 0.0, 0.4) if rng.random() < 0.72 else 1.0,
        ossicles={"malleus": _between(rng, 0.3, 0.9), "incus": _between(rng, 0.0, 0.5) if rng.random() < 0.8 else 0.8,
                  "stapes": _between(rng, 0.0, 0.8)} if eroded else {},
        antrum_scale=_between(rng, 1.1, 1.5), tegmen_open=bool(rng.random() < 0.3),
        membrane_mm=_between(rng, 0.4, 1.2), retraction_mm=_between(rng, 0.0, 1.5),
        sclerosis=_between(rng, 0.2, 0.9), cell_loss=_between(rng, 0.0, 0.3),
    )


def _ome(rng: np.random.Generator) -> EarChange:
    hu = _between(rng, 10, 40)
    if rng.random() < 0.4:
        return EarChange(code=3, kind="ome_level", level_mm=_between(rng, -3.5, 1.0), fill_hu=hu, membrane_mm=0.3,
                         retraction_mm=_between(rng, 0.0, 1.0))
    bubbles = _between(rng, 0.0, 0.25)
    return EarChange(
        code=3, kind="ome_full", fill={"tympanum": 1 - bubbles, "attic": 1 - bubbles, "antrum": 1 - bubbles,
                                       "cells": _between(rng, 0.3, 1.0)},
        fill_hu=hu, membrane_mm=0.35, retraction_mm=_between(rng, 0.0, 1.0),
    )


def _cholesterol_granuloma(rng: np.random.Generator) -> EarChange:
    hu = _between(rng, 40, 80)
    size = _between(rng, 0.85, 1.3)
    masses = [Mass(centre=(47.5, 11.0, 5.0), radii=(7.0 * size, 8.5 * size, 7.0 * size), hu=hu, rim=True)]
    if rng.random() < 0.6:
        masses.append(Mass(centre=(42.6, 1.0, 2.5), radii=(3.3, 5.5, 5.5), hu=hu))
    return EarChange(
        code=4, kind="cholesterol_granuloma", masses=tuple(masses),
        fill={"tympanum": _between(rng, 0.4, 1.0), "attic": _between(rng, 0.6, 1.0), "antrum": 1.0,
              "cells": _between(rng, 0.3, 1.0)},
        fill_hu=hu, membrane_mm=_between(rng, 0.3, 0.8), antrum_scale=_between(rng, 1.0, 1.3),
        ossicles={"incus": _between(rng, 0.5, 1.0)}, cell_loss=_between(rng, 0.0, 0.3),
    )


def _other(rng: np.random.Generator) -> EarChange:
    kind = str(rng.choice(["otosclerosis", "fracture", "malformation", "surgery", "tumour"], p=[0.12, 0.2, 0.2, 0.28, 0.2]))
    base = EarChange(code=6, kind=kind, membrane_mm=_between(rng, 0.2, 0.6))
    if kind == "otosclerosis":
        return replace(base, capsule_spot_hu=_between(rng, 500, 900))
    if kind == "fracture":
        blood = _between(rng, 0.5, 1.0)
        return replace(base, fracture=True, fill={"tympanum": blood, "attic": blood, "antrum": blood, "cells": blood * 0.7},
                       fill_hu=_between(rng, 40, 75))
    if kind == "malformation":
        return replace(base, atresia=True, cell_loss=_between(rng, 0.4, 0.9), fill={"tympanum": _between(rng, 0.0, 0.7)},
                       ossicles={"malleus": 0.7, "incus": 0.7, "stapes": _between(rng, 0.0, 0.6)})
    if kind == "surgery":
        return operated(rng)
    hu = _between(rng, 45, 75)
    size = _between(rng, 0.9, 1.4)
    masses = (Mass(centre=(41.5, -0.5, -2.5), radii=(3.2 * size, 5.0 * size, 5.0 * size), hu=hu),
              Mass(centre=(38.0, 2.5, -8.0), radii=(5.0 * size, 5.0 * size, 5.5 * size), hu=hu))
    return replace(base, masses=masses, fill={"tympanum": 0.9, "attic": _between(rng, 0.0, 0.9)}, fill_hu=hu)


def operated(rng: np.random.Generator) -> EarChange:
    """An ear after mastoidectomy: a smooth cavity, mostly air, open towards the ear canal."""
    return EarChange(
        code=6, kind="surgery", cavity=_between(rng, 0.6, 1.0), cell_loss=_between(rng, 0.3, 0.9), scutum=0.0,
        ossicles={"malleus": _between(rng, 0.0, 0.8), "incus": 0.0, "stapes": _between(rng, 0.2, 1.0)},
        fill={"tympanum": _between(rng, 0.0, 0.6), "attic": _between(rng, 0.0, 0.5), "cells": _between(rng, 0.2, 0.9)},
        fill_hu=_between(rng, 30, 80), sclerosis=_between(rng, 0.2, 0.8), membrane_mm=_between(rng, 0.5, 1.2),
    )


_DRAW = {1: _csom, 2: _cholesteatoma, 3: _ome, 4: _cholesterol_granuloma, 5: _healthy, 6: _other}


def draw_change(code: int, rng: np.random.Generator) -> EarChange:
    """One ear with this diagnosis code (1 to 6)."""
    return _DRAW[code](rng)


MASS_CENTRES = ((43.0, -3.0, -12.0), (60.0, 24.0, 8.0))
MASS_RADIUS, MASS_HU = (3.0, 4.0), (1800.0, 2200.0)
"""Lowest and highest: a box in the mastoid and the middle ear, which even a short scan has in its field; as dense as the otic
capsule, so that few ears teach what to look for, and the mass is yet not the brightest place."""


def draw_one_mass(code: int, rng: np.random.Generator) -> EarChange:
    """A healthy ear and, if the code says that it is not one, a ball of dense bone (an osteoma, say) in a place of its own:
    nothing else tells the two apart, and the masses of different patients seldom overlay."""
    healthy = replace(_healthy(rng), fill={})
    centre, radius, hu = rng.uniform(*MASS_CENTRES), _between(rng, *MASS_RADIUS), _between(rng, *MASS_HU)
    if code == NORMAL:
        return healthy
    mass = Mass(centre=(float(centre[0]), float(centre[1]), float(centre[2])), radii=(radius, radius, radius), hu=hu)
    return replace(healthy, code=code, kind="one_mass", masses=(mass,))
