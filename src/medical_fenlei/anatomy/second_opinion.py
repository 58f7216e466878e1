"""Where the anatomy network finds an ear that was cut out around where the localizer found it: each checks the other."""
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from medical_fenlei.models.anatomy_ear import GRID_MM, resampling_matrix
from medical_fenlei.models.anatomy_net import AnatomyNet
from medical_fenlei.models.build import ANATOMY_WEIGHTS
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import EarPoint, Structure

FIELD_MM = (40.0, 56.0, 56.0)
"""What the network looks at around the localizer's point: slices, rows, columns."""
APART_MM = 8.0
"""The two disagree if their points lie farther apart."""
LEAST_CAVITY_MM3 = 100.0
"""The network has found no middle ear if its cavity is smaller; a tympanic cavity holds some 500 mm³."""


class SecondOpinion(NamedTuple):
    """What the anatomy network says about the place of an ear."""

    tympanum_lps: np.ndarray
    """float64 (3,): the middle of the tympanic cavity, LPS mm."""

    apart_mm: float
    """How far that is from the localizer's point."""

    cavity_mm3: float
    """Volume of the middle ear that it finds in its field."""

    @property
    def doubt(self) -> str:
        """Why the place is doubtful; empty if the two agree."""
        if self.cavity_mm3 < LEAST_CAVITY_MM3:
            return f"the anatomy network finds no middle ear there ({self.cavity_mm3:.0f} mm³ of it)"
        if self.apart_mm > APART_MM:
            return f"the anatomy network finds the tympanic cavity {self.apart_mm:.0f} mm away from where the ear was found"
        return ""


class AnatomyCheck:
    """The anatomy network, by default with the weights of the package, which are read at first use."""

    def __init__(self, model: AnatomyNet | None = None) -> None:
        self._given = model

    @cached_property
    def _model(self) -> AnatomyNet:
        if self._given is not None:
            return self._given
        model = AnatomyNet()
        model.load_state_dict(load_file(ANATOMY_WEIGHTS))
        return model.eval()

    @torch.inference_mode()
    def look(self, volume: np.ndarray, affine: Affine, centre_lps: np.ndarray) -> SecondOpinion:
        """Find the ear in a volume, HU (K, H, W) with column 0 lateral.

        affine: its voxel index to LPS mm; centre_lps (3,): where the localizer found the tympanic cavity.
        """
        at, hu = affine.inverse.apply(centre_lps), torch.from_numpy(np.asarray(volume, np.float32))
        starts, matrices = [], []
        for axis, (field, own_mm, grid_mm) in enumerate(zip(FIELD_MM, affine.spacing, GRID_MM, strict=True)):
            reach = field / 2 / own_mm
            start = int(np.clip(round(at[axis] - reach), 0, max(0, hu.shape[axis] - 1)))
            length = max(1, min(hu.shape[axis], round(at[axis] + reach)) - start)
            hu = hu.narrow(axis, start, length)
            starts.append(start)
            matrices.append(resampling_matrix(length, float(own_mm), grid_mm))
        to_z, to_y, to_x = matrices
        found = self._model(torch.einsum("zk,kyx->zyx", to_z, to_y @ (hu @ to_x.T))[None])
        on_grid = found.landmarks[0, EarPoint.TYMPANUM].double().numpy()
        size, length = (np.array([matrix.shape[side] for matrix in matrices]) for side in (0, 1))
        voxel = starts + (length - 1) / 2 + (on_grid - (size - 1) / 2) * GRID_MM / affine.spacing
        point = affine.apply(voxel)
        cavity = float(found.logits.softmax(1)[0, Structure.CAVITY].sum()) * float(np.prod(GRID_MM))
        return SecondOpinion(point, float(np.linalg.norm(point - centre_lps)), cavity)
