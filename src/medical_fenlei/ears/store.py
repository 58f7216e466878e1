"""The cache of ear volumes: one folder per preprocessing, one NPY and one JSON file per ear.

An entry exists once its JSON does. The NPY is written first, and each file is written beside its target and then renamed, so
that a killed builder leaves no partial entry, and two builders at once write the same bytes. An entry that was cut from another
series (`ears.source`) is removed, JSON first, before it is cut anew: no reader gets the volume of one series with the facts of
another, and a volume that is already mapped stays as it was.
"""
import contextlib
import fcntl
import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from medical_fenlei import settings, tables
from medical_fenlei.config import EarSpec
from medical_fenlei.errors import UserError
from medical_fenlei.exclusive import in_turn
from medical_fenlei.files import atomic, read_json, remove_partial, sha256, write_json
from medical_fenlei.log import LOG
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import Side

SPEC_JSON = "spec.json"
LOCK, BUILDERS, INDEX_LOCK = ".lock", ".builders", ".index.lock"
"""Lock files in a store's folder: the first is locked per exam, the second as long as any builder runs, the third while one
lists the entries."""


class EarStore:
    """The ears of one preprocessing, in `<cache_dir>/<spec.key>/`."""

    def __init__(self, cache_dir: Path, spec: EarSpec) -> None:
        """Name the store; nothing is read or written."""
        self.spec = spec
        self.folder = cache_dir / spec.key

    def _stem(self, exam_id: str, side: Side) -> Path:
        if not exam_id or exam_id != Path(exam_id).name or exam_id.startswith("."):
            raise UserError(f"exam id {exam_id!r}: got a name that no file can have")
        return self.folder / f"{exam_id}_{side}"

    def npy(self, exam_id: str, side: Side) -> Path:
        """Return the file of an ear's volume, which need not exist."""
        return Path(f"{self._stem(exam_id, side)}.npy")

    def has(self, exam_id: str, side: Side) -> bool:
        """Return whether the store has an entry of this ear."""
        stem = self._stem(exam_id, side)
        return Path(f"{stem}.json").is_file() and Path(f"{stem}.npy").is_file()

    def read(self, exam_id: str, side: Side) -> np.memmap:
        """Map the volume of an ear into memory, read-only: int16 HU (K, H, W).

        Raises UserError if the file cannot be read or is not what the spec describes.
        """
        path = self.npy(exam_id, side)
        try:
            volume: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({type(error).__name__}); remove it and build the cache again") from None
        expected = self.spec.shape
        if volume.shape != expected or volume.dtype != np.int16 or not volume.flags.c_contiguous:
            order = "" if volume.flags.c_contiguous else " in Fortran order"
            raise UserError(f"{path}: got {volume.dtype} {volume.shape}{order}, expected int16 {expected}; "
                            "remove it and build again")
        return volume

    def file_and_offset(self, exam_id: str, side: Side) -> tuple[str, int]:
        """Return the file of an ear and the offset of its values in bytes (int16, C order). Raises UserError as `read` does."""
        volume = self.read(exam_id, side)
        return str(volume.filename), int(volume.offset)

    def read_facts(self, exam_id: str, side: Side) -> tables.EarFacts:
        """Read the facts of an ear: series, affine_lps, slice_files, location with its confidence (docs/artifacts.md).

        Raises UserError, naming the field, if they are damaged or of another ear; OSError if there are none.
        """
        path = Path(f"{self._stem(exam_id, side)}.json")
        facts = tables.EAR_FACTS.read(path)
        for name, expected in (("exam_id", exam_id), ("side", str(side))):
            if (got := str(facts[name])) != expected:  # type: ignore[literal-required]
                raise UserError(f"{path}: field {name}: got {got!r}, expected {expected!r}; {tables.EAR_FACTS.remedy}")
        return facts

    def read_affine(self, exam_id: str, side: Side) -> Affine:
        """Read the map of an ear from voxel index to LPS mm. Raises UserError where its facts hold none."""
        facts, path = self.read_facts(exam_id, side), f"{self._stem(exam_id, side)}.json"
        if "affine_lps" not in facts:
            raise UserError(f"{path}: field affine_lps is missing; {tables.EAR_FACTS.remedy}")
        try:
            return Affine.from_list(facts["affine_lps"])
        except ValueError as error:
            raise UserError(f"{path}: field affine_lps: {error}; {tables.EAR_FACTS.remedy}") from None

    def read_images(self, exam_id: str, side: Side) -> tuple[tables.SourceImage, ...]:
        """Read the image of the scan nearest to each slice of an ear. Raises UserError or OSError as `read_facts` does."""
        return tables.source_images(self.read_facts(exam_id, side), self.spec.num_slices)

    def write(self, exam_id: str, side: Side, volume: np.ndarray, facts: dict[str, Any]) -> None:
        """Write the entry of an ear: int16 HU (K, H, W) and its facts, values for JSON."""
        stem = self._stem(exam_id, side)
        npy = Path(f"{stem}.npy")
        volume, head = np.ascontiguousarray(volume, np.int16), io.BytesIO()
        npy_format.write_array_header_1_0(head, npy_format.header_data_from_array_1_0(volume))
        digest = hashlib.sha256(head.getbuffer())
        with ThreadPoolExecutor(1) as thread, atomic(npy) as file:          # np.save hides why a write fails
            hashed = thread.submit(digest.update, volume.data)              # while the disk takes the bytes
            file.write(head.getbuffer())
            file.write(volume.data)
        hashed.result()
        write_json(Path(f"{stem}.json"), {"exam_id": exam_id, "side": str(side), "sha256": digest.hexdigest(), **facts})

    def is_sound(self, exam_id: str, side: Side) -> bool:
        """Return whether an ear can be read and is, bit for bit, what was written."""
        try:
            self.read(exam_id, side)
            self.refuse_changed(exam_id, side)
        except (UserError, OSError):
            return False
        return True

    def refuse_changed(self, exam_id: str, side: Side) -> None:
        """Raise UserError if the volume of an ear is not, bit for bit, what was written with its facts; OSError without one."""
        facts, npy = self.read_facts(exam_id, side), self.npy(exam_id, side)
        if facts["sha256"] != sha256(npy):
            raise UserError(f"{npy}: is not the volume that was written with {npy.stem}.json (field sha256): changed, or taken "
                            "from another ear; build_cache with --verify prepares it anew")

    def remove(self, exam_id: str, side: Side) -> None:
        """Remove the entry of an ear; its JSON first, without which it does not exist."""
        for ending in ("json", "npy"):
            Path(f"{self._stem(exam_id, side)}.{ending}").unlink(missing_ok=True)

    @contextlib.contextmanager
    def claim(self, exam_id: str, *, wait: bool) -> Iterator[bool]:
        """Lock an exam for this process until the block ends, and yield whether that succeeded; a dead process holds no lock.

        wait: block until another process has released it. The lock is one byte of one file, so that no lock files remain.
        """
        byte = int.from_bytes(hashlib.sha256(exam_id.encode()).digest()[:4], "big") >> 1
        with open(self.folder / LOCK, "ab") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
            except BlockingIOError:
                yield False
                return
            yield True                                           # closing the file releases the lock

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Enclose everything that a builder writes. The first builder removes partial files of killed ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / BUILDERS, "ab") as file:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in self.folder.glob(".*.part"):
                    remove_partial(path)
            fcntl.flock(file, fcntl.LOCK_SH)                     # while any builder holds it, none gets the lock above
            yield

    def write_spec(self) -> None:
        """Write `spec.json`, which spells out the key."""
        write_json(self.folder / SPEC_JSON, self.spec.spelt_out())

    def write_index(self) -> int:
        """Write `index.csv` of every entry, and return their number.

        Builders list and write in turn: the entries of the last one to finish are in its list, and so in the file that stays.
        """
        with in_turn(self.folder / INDEX_LOCK):
            rows = sorted(self._entries(), key=lambda row: (row["exam_id"], row["side"]))
            tables.CACHE_INDEX.write(self.folder / "index.csv", tables.CACHE_INDEX.frame(rows))
            return len(rows)

    def _entries(self) -> Iterator[dict[str, object]]:
        for path in self.folder.glob("*.json"):
            if path.with_suffix(".npy").is_file():
                try:
                    facts = tables.EAR_FACTS.read(path)
                except UserError as error:
                    LOG.warning("%s", error)
                    continue
                yield {"exam_id": facts["exam_id"], "side": facts["side"], "file": path.with_suffix(".npy").name,
                       "sha256": facts["sha256"]}


def choose_store(cache_dir: Path, spec: EarSpec | None, *, default: EarSpec | None = None) -> EarStore:
    """Return the store of this spec; for None the only one in `cache_dir`, or that of `default` where there is none.

    Raises UserError where there are several to choose from.
    """
    if spec is not None:
        return EarStore(cache_dir, spec)
    default = default or EarSpec()
    there = sorted(cache_dir.glob(f"*/{SPEC_JSON}"))
    if len(there) > 1:
        flags = {path.parent.name: " ".join(settings.to_flags(read_spec(path), base=default)) for path in there}
        listed = "; ".join(f"{name}: {words or '--sampling even'}" for name, words in flags.items())
        raise UserError(f"--cache-dir {cache_dir}: got several caches, expected one; choose by its flags: {listed}; or remove "
                        f"those that are not needed: rm -r {there[0].parent}")
    return EarStore(cache_dir, read_spec(there[0]) if there else default)


def read_spec(path: Path) -> EarSpec:
    """Read the spec that a `spec.json` spells out. Raises UserError if another version of the code wrote it."""
    try:
        plain = read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read; remove {path.parent} and build the cache again") from None
    if isinstance(plain, dict):
        plain.pop("preprocessing_version", None)
    spec = settings.from_json(EarSpec, plain, where=str(path))
    if spec.key != path.parent.name:
        raise UserError(f"{path}: got a cache of key {path.parent.name}, expected {spec.key} in this version; build it again")
    return spec
