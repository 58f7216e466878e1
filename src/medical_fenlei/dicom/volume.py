"""CT series opened for reading: which images of a folder belong together, their geometry, and slices decoded on demand.

A series is named by its folder. Where a folder holds several, each is named `<folder>#<name>` (`Stack.name`); so is a series
that is scattered over the folders below it.
"""
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.digest import series_digest
from medical_fenlei.dicom.fast_pixels import read_stored
from medical_fenlei.dicom.geometry import Geometry, canonical, stack
from medical_fenlei.dicom.header import Header, headers_of
from medical_fenlei.dicom.pixels import decode_hu, rescale_to_hu
from medical_fenlei.dicom.stacks import read_scattered, read_stacks
from medical_fenlei.errors import Rejected
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import AIR

PART = "#"
"""Between a folder and the name of one of its series."""


class Series:
    """One regular axial series in the canonical order: k runs up, rows to the back, columns to the patient's left (LPS)."""

    def __init__(self, headers: Iterable[Header]) -> None:
        """Arrange the images of a series. Raises Rejected, as `geometry.stack` and `geometry.canonical` do."""
        self._given = tuple(headers)
        geometry, self._turn = canonical(stack(self._given))
        self.geometry: Geometry = geometry
        self.headers: tuple[Header, ...] = tuple(self._given[i] for i in geometry.order)
        """Header of each slice, lowest first; that of the nearest image where a slice lies between two."""

        self._whole: tuple[Path, Dataset] | None = None

    @property
    def affine(self) -> Affine:
        """Voxel index (k, row, column) to LPS mm."""
        return self.geometry.affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, rows, columns)."""
        return self.geometry.shape

    @property
    def digest(self) -> str:
        """Digest of all images as their files are now (`digest.series_digest`)."""
        return series_digest(self._given)

    def slice(self, k: int) -> np.ndarray:
        """Decode slice k as int16 HU (rows, columns). Raises Rejected, naming the file, where it cannot be decoded."""
        if self.geometry.between is None:
            return self._image(self.headers[k])
        below, above, weight = self.geometry.between[k]
        if weight in (0, 1):
            return self._image(self._given[above if weight else below])
        low, high = (self._image(self._given[n]) for n in (below, above))
        mean = np.rint(low * np.float32(1 - weight) + high * np.float32(weight)).astype(np.int16)
        return np.where((low == AIR) | (high == AIR), high if weight > 0.5 else low, mean)       # padding is never averaged

    def _image(self, header: Header) -> np.ndarray:
        try:
            stored = read_stored(header)
            hu = decode_hu(self._dataset(header), header) if stored is None else rescale_to_hu(stored, header)
            return self._turn.apply(hu)
        except Rejected as rejected:
            raise Rejected(rejected.reason, f"{header.path.name}: {rejected.detail}") from None

    def _dataset(self, header: Header) -> Dataset:
        """Read the dataset of an image; a file of many frames is read once for all of them."""
        if self._whole is not None and self._whole[0] == header.path:
            return self._whole[1]
        dataset = read_dataset(header.path)
        if headers_of(dataset, header.path)[header.frame or 0].sop_uid != header.sop_uid:
            raise Rejected("changed_file", "the file is not the one that was indexed")
        self._whole = None if header.frame is None else (header.path, dataset)
        return dataset


def inside(base: Path, relpath: str) -> Path:
    """Return `base/relpath`. Raises Rejected (outside_base) where it leads out of `base`, through `..` or a link."""
    path = base / relpath
    if not path.resolve().is_relative_to(base.resolve()):
        raise Rejected("outside_base", "the path leads out of its base folder")
    return path


def read_headers(series: Path) -> tuple[list[Header], list[tuple[Path, Rejected]]]:
    """Return the headers of a series, and the files of its folder that are no images, each with the reason.

    series: its folder, or `<folder>#<name>`. Raises Rejected: missing_folder; mixed_series, where the folder holds several
    series and none is named; missing_series, where it holds none of that name.
    """
    folder, name = series, ""
    if PART in series.name and not series.is_dir():
        folder, name = series.parent / series.name.rpartition(PART)[0], series.name.rpartition(PART)[2]
    stacks, rejects = read_stacks(folder)
    found = [stack for stack in stacks if name in ("", stack.name)]
    if name and not found:
        found = [stack for stack in read_scattered(folder) if stack.name == name]
    if len(found) == 1 and found[0].refusal:
        raise found[0].refusal
    if len(found) > 1:
        raise Rejected("mixed_series", f"got a folder of {len(found)} series and no name of one: build the index again")
    if not found and (stacks or name):
        raise Rejected("missing_series", "the folder no longer holds this series: build the index again")
    return [header for stack in found for header in stack.headers], rejects


def open_series(series: Path) -> Series:
    """Open a series, named by its folder or by `<folder>#<name>`; files that are no CT images are skipped.

    Raises Rejected; where no file is left, with what is wrong with the first.
    """
    headers, rejects = read_headers(series)
    if rejects and not headers:
        path, rejected = rejects[0]
        raise Rejected(rejected.reason, f"{path.name}: {rejected.detail}")
    return Series(headers)
