"""The cache of ear volumes: one folder a preprocessing, one NPY and one JSON an ear.

An entry is there when its JSON is: the NPY is written first, each beside its target and then renamed, so that a killed builder
leaves nothing readable that is not whole, and two builders at once write the same bytes.
"""
import contextlib
import fcntl
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medical_fenlei import settings, tables
from medical_fenlei.config import EarSpec
from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic, read_json, sha256, write_json
from medical_fenlei.vocabulary import Side

LOCK, BUILDERS = ".lock", ".builders"
"""Files in a store's folder: on the one builders agree who does what, on the other whether any is at work."""


class EarStore:
    """The ears of one preprocessing, below `<cache_dir>/<spec.key>/`."""

    def __init__(self, cache_dir: Path, spec: EarSpec) -> None:
        self.spec = spec
        self.folder = cache_dir / spec.key

    def _stem(self, exam_id: str, side: Side) -> Path:
        if not exam_id or exam_id != Path(exam_id).name or exam_id.startswith("."):
            raise UserError(f"exam id {exam_id!r}: cannot name a file")
        return self.folder / f"{exam_id}_{side}"

    def has(self, exam_id: str, side: Side) -> bool:
        stem = self._stem(exam_id, side)
        return Path(f"{stem}.json").is_file() and Path(f"{stem}.npy").is_file()

    def read(self, exam_id: str, side: Side) -> np.memmap:
        """int16 HU (K, H, W), a read-only memory map. Raises UserError if the file is not what the spec says."""
        path = Path(f"{self._stem(exam_id, side)}.npy")
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

    def locate(self, exam_id: str, side: Side) -> tuple[str, int]:
        """The file of an ear, and where in it the values begin (int16, C order). Raises UserError as `read` does."""
        volume = self.read(exam_id, side)
        return str(volume.filename), int(volume.offset)

    def read_facts(self, exam_id: str, side: Side) -> dict[str, Any]:
        """What stands beside a volume: series, affine_lps, slice_files, how sure the place is."""
        facts: dict[str, Any] = read_json(Path(f"{self._stem(exam_id, side)}.json"))
        return facts

    def write(self, exam_id: str, side: Side, volume: np.ndarray, facts: dict[str, Any]) -> None:
        """Store int16 HU (K, H, W) with its facts."""
        stem = self._stem(exam_id, side)
        npy = Path(f"{stem}.npy")
        whole = io.BytesIO()                                     # numpy's own way to a file hides why a write fails
        np.save(whole, np.ascontiguousarray(volume, np.int16), allow_pickle=False)
        with atomic(npy) as file:
            file.write(whole.getbuffer())
        digest = hashlib.sha256(whole.getbuffer()).hexdigest()
        write_json(Path(f"{stem}.json"), {"exam_id": exam_id, "side": str(side), "sha256": digest, **facts})

    def is_sound(self, exam_id: str, side: Side) -> bool:
        """Whether an ear can be read whole and is, bit for bit, what was written."""
        try:
            self.read(exam_id, side)
            return bool(self.read_facts(exam_id, side)["sha256"] == sha256(Path(f"{self._stem(exam_id, side)}.npy")))
        except (UserError, OSError, ValueError, KeyError, TypeError):
            return False

    def remove(self, exam_id: str, side: Side) -> None:
        """The JSON first: without it the entry is not there."""
        for ending in ("json", "npy"):
            Path(f"{self._stem(exam_id, side)}.{ending}").unlink(missing_ok=True)

    @contextlib.contextmanager
    def claim(self, exam_id: str, *, wait: bool) -> Iterator[bool]:
        """Whether this process has the exam to itself until the block ends; a process that dies lets go of it.

        wait: until another has done with it. One byte of one file stands for an exam, so that nothing is left behind.
        """
        place = int.from_bytes(hashlib.sha256(exam_id.encode()).digest()[:4], "big") >> 1
        with open(self.folder / LOCK, "ab") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            except BlockingIOError:
                yield False
                return
            yield True                                           # closing the file lets go

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Around everything that a builder writes. The first of several removes what killed ones left half-written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / BUILDERS, "ab") as file:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in self.folder.glob(".*.part"):
                    path.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_SH)                     # as long as one holds this, nobody gets the one above
            yield

    def write_spec(self) -> None:
        """`spec.json`, which spells the key out."""
        write_json(self.folder / "spec.json", self.spec.spelt_out())

    def write_index(self) -> int:
        """`index.csv` over every whole entry; returns how many there are."""
        rows = sorted(self._entries(), key=lambda row: (row["exam_id"], row["side"]))
        tables.CACHE_INDEX.write(self.folder / "index.csv", tables.CACHE_INDEX.frame(rows))
        return len(rows)

    def _entries(self) -> Iterator[dict[str, object]]:
        for path in self.folder.glob("*.json"):
            if path.with_suffix(".npy").is_file():
                facts = read_json(path)
                yield {"exam_id": facts["exam_id"], "side": facts["side"], "file": path.with_suffix(".npy").name,
                       "sha256": facts["sha256"]}


def choose_store(cache_dir: Path, spec: EarSpec | None, *, default: EarSpec | None = None) -> EarStore:
    """The store of this spec; with None, the only one in `cache_dir`, or the default's where there is none.

    Raises UserError, listing them, where there are several to choose from.
    """
    if spec is not None:
        return EarStore(cache_dir, spec)
    default = default or EarSpec()
    there = sorted(cache_dir.glob("*/spec.json"))
    if len(there) > 1:
        flags = {path.parent.name: " ".join(settings.to_flags(read_spec(path), base=default)) for path in there}
        listed = "; ".join(f"{name}: {words or '--sampling even'}" for name, words in flags.items())
        raise UserError(f"--cache-dir {cache_dir}: holds several caches, name one by its flags: {listed}")
    return EarStore(cache_dir, read_spec(there[0]) if there else default)


def read_spec(path: Path) -> EarSpec:
    """The spec that a `spec.json` spells out. Raises UserError if other code wrote it."""
    try:
        plain = read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read; remove {path.parent} and build the cache again") from None
    plain.pop("preprocessing_version", None)
    spec = settings.from_json(EarSpec, plain, where=str(path))
    if spec.key != path.parent.name:
        raise UserError(f"{path}: the cache is of key {path.parent.name}, this version makes {spec.key}; build it again")
    return spec
