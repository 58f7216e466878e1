"""A few ears in a cache, and the storages from which batches of them come."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medical_fenlei.config import EarSpec
from medical_fenlei.data.storage import EarStorage, Placement
from medical_fenlei.ears.store import EarStore
from medical_fenlei.vocabulary import Side

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODES = ("device", "memory", "disk")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
Stored = tuple[EarStore, pd.DataFrame, np.ndarray]
"""A store, the rows of its ears, and their volumes."""


def store_ears(folder: Path, *, spec: EarSpec, count: int) -> Stored:
    """Store left ears of random voxels."""
    store, rows = EarStore(folder, spec), []
    volumes = np.random.default_rng(0).integers(-1000, 3000, (count, *spec.shape)).astype(np.int16)
    for n, volume in enumerate(volumes):
        store.write(f"x{n}", Side.LEFT, volume, {})
        rows.append({"exam_id": f"x{n}", "side": "left", "label_code": 1})
    return store, pd.DataFrame(rows), volumes


def storage_of(on: str, stored: Stored, readers: int = 3, device: torch.device = CPU) -> EarStorage:
    """Open the storage of this name for stored ears."""
    return Placement(on, device, readers, 0).open_storage(stored[0], stored[1])
