"""A CT series opened for reading: geometry at once, slices when asked for."""
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medical_fenlei.dicom.geometry import Geometry, canonical, stack
from medical_fenlei.dicom.header import Header, header_of, read_dataset, read_header
from medical_fenlei.dicom.pixels import decode_hu
from medical_fenlei.errors import Rejected


class Series:
    """One regular axial series, seen in the canonical order: k up, rows to the back, columns to the patient's left (LPS)."""

    def __init__(self, headers: Iterable[Header]) -> None:
        headers = list(headers)
        geometry, self._turn = canonical(stack(headers))
        self.geometry: Geometry = geometry
        self.headers: tuple[Header, ...] = tuple(headers[i] for i in geometry.order)
        """Of slice k, lowest first."""

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): takes (k, row, column, 1) to LPS mm."""
        return self.geometry.affine

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.geometry.shape

    def slice(self, k: int) -> np.ndarray:
        """int16 HU (rows, columns) of slice k. Raises Rejected, naming the file, where it cannot be decoded."""
        header = self.headers[k]
        try:
            dataset = read_dataset(header.path)
            if header_of(dataset, header.path).sop_uid != header.sop_uid:
                raise Rejected("changed_file", "the file is not the one that was indexed")
            return self._turn.apply(decode_hu(dataset, header))
        except Rejected as rejected:
            raise Rejected(rejected.reason, f"{header.path.name}: {rejected.detail}") from None


def series_files(folder: Path) -> list[Path]:
    """The files of a series folder that may be images, by name; hidden ones and folders are passed over."""
    if not folder.is_dir():
        raise Rejected("missing_folder", "the series folder is not there")
    with os.scandir(folder) as entries:                          # which knows what is a file without asking for each
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    return [folder / name for name in names]


def inside(base: Path, relpath: str) -> Path:
    """`base/relpath`. Raises Rejected (outside_base) where it climbs out, through `..` or through a link."""
    path = base / relpath
    if not path.resolve().is_relative_to(base.resolve()):
        raise Rejected("outside_base", "the path leads out of its base folder")
    return path


def read_headers(folder: Path) -> tuple[list[Header], list[tuple[Path, Rejected]]]:
    """Headers of every CT image in a series folder, and the files that are none, each with the reason."""
    headers, rejects = [], []
    for path in series_files(folder):
        try:
            headers.append(read_header(path))
        except Rejected as rejected:
            rejects.append((path, rejected))
    return headers, rejects


def open_series(folder: Path) -> Series:
    """The series in a folder; files that are no CT images are passed over. Raises Rejected."""
    return Series(read_headers(folder)[0])
