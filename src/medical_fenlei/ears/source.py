"""What a cached ear was cut from, compared with the series that the manifest names.

The JSON of an ear holds the path of its series, and under `source` the digest of the series' images. The manifest holds both as
well, so that comparing them opens no DICOM file.
"""
import contextlib
import functools
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from medical_fenlei import settings, tables
from medical_fenlei.config import DUAL_ROUTE, EAR_ROUTE, DataConfig, EarSpec, RunConfig
from medical_fenlei.ears.store import SPEC_JSON, EarStore, read_spec
from medical_fenlei.errors import UserError
from medical_fenlei.log import LOG
from medical_fenlei.near_names import near_paths
from medical_fenlei.vocabulary import Side, plural

EntryState = Literal["missing", "current", "unproven", "stale", "damaged"]
"""current: cut from the images that are wanted; unproven: from the path that is wanted, but entry or manifest is of an earlier
version and has no digest; stale: from another series, or from other images; damaged: its JSON cannot be read."""
NEAR_MISS = 2
"""Number of options in which a cache that was meant may differ from one that does not exist."""

WHOLE = 100
"""The amount of training data, in percent, that a cache is built for by default."""

USABLE: tuple[EntryState, ...] = ("current", "unproven")


@dataclass(frozen=True)
class EarSource:
    """The series that an ear is cut from."""

    series_relpath: str
    digest: str = ""
    """Digest of its images (`dicom.digest`), empty if unknown."""

    @property
    def facts(self) -> dict[str, str]:
        """The part of an ear's JSON that names its source."""
        return {"series_relpath": self.series_relpath, "source": self.digest}


def sources_of(ears: pd.DataFrame) -> list[EarSource]:
    """Return the series that each row of a manifest names, or of another table with series_relpath."""
    digests = ears.get("series_digest", pd.Series("", ears.index))
    return [EarSource(str(path), str(digest)) for path, digest in zip(ears.series_relpath, digests, strict=True)]


def entry_facts(npy: Path) -> dict[str, Any] | None:
    """Return the JSON of an entry, None if the entry does not exist, and {} if the JSON is damaged."""
    with contextlib.suppress(UserError):
        try:
            return dict(tables.EAR_FACTS.read(npy.with_name(f"{npy.name.removesuffix('.npy')}.json")))
        except FileNotFoundError:
            return None
    return {}


def state_of(facts: Mapping[str, Any] | None, source: EarSource) -> EntryState:
    """Return the state of an entry with these facts, as `entry_facts` returns them, if `source` is wanted."""
    if not facts:
        return "missing" if facts is None else "damaged"
    if facts.get("series_relpath", source.series_relpath) != source.series_relpath:
        return "stale"
    cut_from = facts.get("source")
    if not (cut_from and source.digest):
        return "unproven"
    return "current" if cut_from == source.digest else "stale"


def entry_state(store: EarStore, exam_id: str, side: Side, source: EarSource) -> EntryState:
    """Return the state of an ear's entry if `source` is wanted."""
    npy = store.npy(exam_id, side)
    return state_of(entry_facts(npy), source) if npy.is_file() else "missing"


def entry_states(store: EarStore, ears: pd.DataFrame) -> "pd.Series[str]":
    """Return the state of each ear of a manifest, by its row."""
    states = [entry_state(store, exam, Side(side), source)
              for exam, side, source in zip(ears.exam_id, ears.side, sources_of(ears), strict=True)]
    return pd.Series(states, ears.index, dtype="str")


def missing_ears(store: EarStore, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the manifest (one per ear) that the store lacks; stale entries count as there."""
    lacking = [not store.has(exam, Side(side)) for exam, side in zip(manifest.exam_id, manifest.side, strict=True)]
    return manifest.loc[np.array(lacking, bool)]


def describe_stale(store: EarStore, ear: Mapping[Any, Any]) -> str:
    """Return what a stale or damaged ear was cut from, and what its row of the manifest names instead."""
    try:
        facts = store.read_facts(str(ear["exam_id"]), Side(ear["side"]))
    except (UserError, OSError) as error:
        return str(error)
    if (cut_from := facts.get("series_relpath")) != ear["series_relpath"]:
        return f"cut from {cut_from}, expected {ear['series_relpath']}"
    return f"{cut_from} has held other images since"


def refuse_stale(store: EarStore, ears: pd.DataFrame, states: "pd.Series[str]", *, command: str) -> None:
    """Raise UserError, with what cuts them anew, if some of these ears are stale or damaged.

    Logs once if it takes other ears on trust. states: as `entry_states` returns them; command: the one that builds the cache of
    these ears, "" if there is none.
    """
    stale = ears[~states.isin([*USABLE, "missing"])]
    if len(stale):
        first = stale.iloc[0]
        raise UserError(
            f"--cache-dir {store.folder}: {len(stale)} of {len(ears)} ears were not cut from the series that are wanted now "
            f"(first {first.exam_id} {first.side}: {describe_stale(store, first.to_dict())}); "
            + (f"cut them anew with {command}" if command else
               f"name another --cache-dir, or remove {store.folder}, and they are cut anew where they are used"))
    warn_unproven(store, ears, states)


def refuse_changed(store: EarStore, ears: pd.DataFrame) -> None:
    """Raise UserError if a volume of these rows of a manifest is not, bit for bit, what was written with its facts."""
    names = list(zip(ears.exam_id, ears.side, strict=True))
    for exam, side in tqdm(names, desc="hashes", disable=None, leave=False):
        store.refuse_changed(str(exam), Side(side))


def refuse_without_dicom(store: EarStore, missing: pd.DataFrame, data: DataConfig, *, of_split: bool = True) -> None:
    """Raise UserError if ears are missing and there is no DICOM to prepare them from. missing: rows of a manifest.

    of_split: whether a command builds the cache of these ears; those of a cohort are prepared where they are used.
    """
    if len(missing) and not data.dicom_base.is_dir():
        whose, remedy = ("of the split", f"where it is, {build_command(store.spec, data)} makes them") if of_split else (
            f"of {data.manifest_csv}", "name the folder of their images")
        raise UserError(f"--cache-dir {data.cache_dir}: {store.folder.name} lacks {len(missing)} ears {whose}, and there "
                        f"is no --dicom-base {data.dicom_base} to prepare them from; {remedy}"
                        f"{near_paths('folder', data.dicom_base)}")


def refuse_near_miss(store: EarStore, data: DataConfig) -> None:
    """Raise UserError if the store does not exist, and another cache in its folder differs from it in few options only.

    Such a difference is more often a mistyped flag than a wish to prepare all ears again.
    """
    if (store.folder / SPEC_JSON).is_file():
        return
    for path in sorted(data.cache_dir.glob(f"*/{SPEC_JSON}")):
        try:
            there = read_spec(path)
        except UserError:                                        # of another version: nothing that could be meant
            continue
        asked, other = (settings.to_flags(one, base=base) for one, base in ((store.spec, there), (there, store.spec)))
        if sum(word.startswith("--") for word in asked) <= NEAR_MISS:
            raise UserError(
                f"--cache-dir {data.cache_dir}: no cache has {shlex.join(asked)}; {path.parent.name} has {shlex.join(other)} "
                f"and is otherwise the same: give its flags, or build the other first with {build_command(store.spec, data)}")


def refuse_unnamed(store: EarStore, named: Collection[str], data: DataConfig) -> None:
    """Raise UserError if the store does not exist, and another cache in its folder differs from it in an option not named.

    named: the options of the preprocessing that the command line gives. Whoever names one of them beside a cache may expect the
    others to be those of the cache, and not the defaults. The error names the cache that differs in the fewest options.
    """
    if (store.folder / SPEC_JSON).is_file():
        return
    fewest, nearest = 0, None
    for path in sorted(data.cache_dir.glob(f"*/{SPEC_JSON}")):
        with contextlib.suppress(UserError):                     # of another version: nothing that could be meant
            there = read_spec(path)
            differ = {field.name for field in fields(EarSpec) if getattr(there, field.name) != getattr(store.spec, field.name)}
            if differ - {*named} and (nearest is None or len(differ) < fewest):
                fewest, nearest = len(differ), (there, differ)
    if nearest is None:
        return
    there, differ = nearest
    default = builder_of(there)[0].ears
    asked = settings.to_flags(store.spec, base=there)
    unnamed = " and ".join(f"--{name.replace('_', '-')}" for name in sorted(differ - {*named}))
    reuse = shlex.join(settings.to_flags(there, base=default)) or "no option of the preprocessing"
    raise UserError(f"--cache-dir {data.cache_dir}: no cache has {shlex.join(asked)}, where {unnamed} "
                    f"{'were' if len(differ - {*named}) > 1 else 'was'} not named and so the default; {there.key} is used by "
                    f"giving {reuse}; the other one is built first with {build_command(store.spec, data)}")


def warn_unproven(store: EarStore, ears: pd.DataFrame, states: "pd.Series[str]") -> None:
    """Log, once per store, how many ears are only known by the path of their series, and what to do."""
    unproven = ears[states == "unproven"]
    if unproven.empty:
        return
    if not unproven.get("in_manifest", pd.Series(True, unproven.index)).any():
        why = "no manifest says which images they are of"
    elif any(source.digest for source in sources_of(unproven)):
        why = "they were cached by an earlier version; to be certain, remove them and build the cache again"
    else:
        why = "the manifest is of an earlier version; build it again"
    _warn_once(store.folder.absolute(), f"{plural(len(unproven), 'cached ear')} of {store.folder} "
               f"are known by the path of their series alone: {why}")


@functools.lru_cache(maxsize=64)
def _warn_once(folder: Path, text: str) -> None:
    LOG.warning("%s", text)


def builder_of(spec: EarSpec) -> tuple[RunConfig, str]:
    """Return the preset and the name of the command that builds caches of this preprocessing."""
    preset = DUAL_ROUTE.ears
    return ((DUAL_ROUTE, "build_cache_dual") if (spec.extent, spec.crop_size, spec.crop_mm)
            == (preset.extent, preset.crop_size, preset.crop_mm) else (EAR_ROUTE, "build_cache_ears"))


def command_that_builds(spec: EarSpec, data: DataConfig, ears: pd.DataFrame) -> str:
    """Return the command line that prepares these ears (exam_id); "" if there is none.

    A cache is built for the exams of a split that are in a manifest, and so not for a cohort's.
    """
    try:
        split = tables.read_split(data.splits_root, _pct_to_build(data))
        known = set(tables.MANIFEST.read(data.manifest_csv).exam_id)
    except UserError:
        return ""
    of_split = {exam for own in split.sets.values() for exam in own.exam_id}
    return build_command(spec, data) if set(ears.exam_id) <= of_split & known else ""


def _pct_to_build(data: DataConfig) -> int:
    """The amount whose cache serves all of a splits folder, and otherwise that of the settings."""
    return WHOLE if (data.splits_root / f"{WHOLE}pct").is_dir() else data.pct


def build_command(spec: EarSpec, data: DataConfig) -> str:
    """Return the command line that builds the cache of this preprocessing."""
    route, name = builder_of(spec)
    words = ["python", f"scripts/{name}.py"]
    if data.splits_root.is_dir() and _pct_to_build(data) != WHOLE:
        words += ["--pct", str(data.pct)]
    for field in ("splits_root", "manifest_csv", "dicom_base", "cache_dir"):
        if getattr(data, field) != getattr(route.data, field):
            words += [f"--{field.replace('_', '-')}", str(getattr(data, field))]
    return shlex.join([*words, *settings.to_flags(spec, base=route.ears)])
