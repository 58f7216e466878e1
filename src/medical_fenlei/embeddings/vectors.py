"""Embeddings of ears, one vector per ear, and their file: NPZ without pickled objects."""
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic
from medical_fenlei.near_names import near_paths
from medical_fenlei.vocabulary import DIAGNOSES, SIDES, UNLABELLED

TEXTS = ("exam_id", "side", "patient_key")
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""Exceptions of NumPy and zipfile on bytes in another format (RuntimeError: encrypted, or compressed in an unknown way)."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The embeddings of N ears, and what identifies each ear."""

    embedding: np.ndarray
    """float32 (N, D), all finite."""

    exam_id: np.ndarray
    """Text (N,)."""

    side: np.ndarray
    """Text (N,): left or right."""

    patient_key: np.ndarray
    """Text (N,), equal for ears of the same patient."""

    label_code: np.ndarray
    """int8 (N,), 0 for an ear without a label."""

    def __len__(self) -> int:
        """Number of ears."""
        return len(self.embedding)

    def __getitem__(self, which: np.ndarray) -> "Embeddings":
        """Return some of the ears, chosen by a mask or by their numbers (M,)."""
        return Embeddings(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def write(self, path: Path) -> None:
        """Write an NPZ file."""
        with atomic(path) as file:
            np.savez(file, embedding=self.embedding.astype(np.float32), label_code=self.label_code.astype(np.int8),
                     **{name: getattr(self, name).astype(str) for name in TEXTS})

    @classmethod
    def read(cls, path: Path) -> "Embeddings":
        """Read an NPZ file. Raises UserError if it is missing, is no such file, or holds what it must not."""
        names = [f.name for f in fields(cls)]
        if not path.exists():
            raise UserError(f"{path}: no such file{near_paths('file', path)}; extract_embeddings_ear2d writes it")
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("an array by itself, or no array")
            with np.load(path, allow_pickle=False) as file:
                missing = [name for name in names if name not in file]
                if missing:
                    raise UserError(f"{path}: has no {missing[0]!r}; found {', '.join(file) or 'nothing'}")
                found = cls(**{name: file[name] for name in names})
        except UNREADABLE as error:
            raise UserError(f"{path}: is not a file of embeddings ({type(error).__name__})") from None
        why = found._fault()
        if why:
            raise UserError(f"{path}: {why}")
        return found

    def _fault(self) -> str:
        """The first fault of the content; empty if there is none."""
        if self.embedding.ndim != 2 or self.embedding.dtype != np.float32 or not self.embedding.shape[1]:
            return f"embedding: got {self.embedding.dtype} {self.embedding.shape}, expected float32 (N, D)"
        for f in fields(self):
            array = getattr(self, f.name)
            if f.name != "embedding" and array.shape != (len(self),):
                return f"{f.name}: got {array.shape}, expected one entry for each of {len(self)} ears"
            if f.name in TEXTS and array.dtype.kind != "U":
                return f"{f.name}: got {array.dtype}, expected text"
            if f.name in TEXTS and (array == "").any():          # an empty key would make one giant patient
                return f"{f.name}: must not be empty"
        if self.label_code.dtype != np.int8:
            return f"label_code: got {self.label_code.dtype}, expected int8"
        if not np.isfinite(self.embedding).all():
            return "embedding: holds a number that is not finite"
        if not np.isin(self.side, SIDES).all() or not np.isin(self.label_code, [UNLABELLED, *DIAGNOSES]).all():
            return "side has to be left or right, and label_code 0 to 6"
        if len({*zip(self.exam_id.tolist(), self.side.tolist(), strict=True)}) < len(self):
            return "holds an ear twice"
        return ""


def standardised(train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scale training ears (T, D) to mean 0 and standard deviation 1, and others (N, D) by the same numbers; float64.

    A dimension that is the same in all training ears, within the precision of float32, becomes 0 in all of them and in the
    others.
    """
    train = train.astype(np.float64)
    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation <= 1e-6 * np.abs(mean)] = np.inf
    return tuple((x - mean) / deviation for x in (train, *others))
