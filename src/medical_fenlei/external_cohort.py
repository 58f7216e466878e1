"""A cohort of another hospital, evaluated with a network that was trained elsewhere: its name, and where its data are."""
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medical_fenlei.errors import UserError
from medical_fenlei.files import write_json
from medical_fenlei.json_files import JsonFile
from medical_fenlei.near_names import near_names
from medical_fenlei.vocabulary import SETS, WHOLE_MANIFEST

_NAME = re.compile(r"[^\W_][\w-]{0,39}")
OWN_PATHS = ("manifest_csv", "dicom_base", "cache_dir")
"""Data settings that a cohort has of its own."""


def is_cohort(set_name: str) -> bool:
    """Return whether a set is all ears of a manifest, as a cohort or as WHOLE_MANIFEST, and not a set of a split."""
    return set_name not in SETS


def flag_of_set(set_name: str) -> str:
    """Return the flag that names a set: `--split val`, `--cohort hospital_b`."""
    return f"--{'split' if set_name in (*SETS, WHOLE_MANIFEST) else 'cohort'} {set_name}"


def check_cohort_name(name: str) -> str:
    """Return the name of a cohort, which is a part of file names beside those of the sets. Raises ValueError."""
    from medical_fenlei.tasks import TASKS  # imports NumPy, which --help does without

    plain, reserved = name.casefold(), (*SETS, WHOLE_MANIFEST)
    if not _NAME.fullmatch(name):
        raise ValueError(f"got {name!r}, expected a word of letters, digits, _ and -, at most 40 of them")
    if plain in reserved or plain.startswith(tuple(f"{own}_" for own in reserved)):
        raise ValueError(f"got {name!r}, which is, or begins like, the name of a set ({', '.join(reserved)})")
    if re.search(r"_first\d+$", plain) or plain.endswith(tuple(f"_{task}" for task in TASKS)):
        raise ValueError(f"got {name!r}, which ends like the files of a --limit or of a task")
    return name


@dataclass(frozen=True, kw_only=True)
class ExternalCohort:
    """Where the data of a cohort are."""

    name: str
    """Its name, as `check_cohort_name` accepts it."""

    manifest_csv: Path
    """Manifest of its ears."""

    dicom_base: Path
    """Folder of its DICOM."""

    cache_dir: Path
    """Folder of its caches: other hospitals may use the same exam ids."""

    ears_left_out: int = 0
    """Labelled ears that are left out since the network was fitted on their patients."""

    @classmethod
    def read(cls, reports: Path, name: str) -> "ExternalCohort | None":
        """Read what `write` kept in a run's reports, as reached from here; None if there is none. Raises UserError."""
        path = reports / f"cohort_{name}.json"
        if not path.is_file():
            return None
        kept = COHORT.read(path)
        reached: dict[str, Any] = {own: Path(os.path.relpath(reports / getattr(kept, own))) for own in OWN_PATHS}
        return replace(kept, **reached)

    def write(self, reports: Path) -> Path:
        """Write `cohort_<name>.json` into a run's reports, with paths from there; return the file."""
        path = reports / f"cohort_{self.name}.json"
        paths = {own: os.path.relpath(getattr(self, own), reports) for own in OWN_PATHS}
        write_json(path, {"name": self.name, "ears_left_out": self.ears_left_out, **paths})
        return path


COHORT = JsonFile[ExternalCohort](
    "where a cohort's data are", ExternalCohort, "remove it, and name --manifest-csv and --dicom-base")
"""The file that `ExternalCohort.write` writes."""


def _recorded(reports: Path) -> list[str]:
    return sorted(path.stem.removeprefix("cohort_") for path in reports.glob("cohort_*.json"))


def cohorts_of(reports: Path) -> list[ExternalCohort]:
    """Return the cohorts that were evaluated in a run, by name. Raises UserError if a file of theirs is damaged."""
    return [own for name in _recorded(reports) if (own := ExternalCohort.read(reports, name))]


def cache_apart(reports: Path, *, dicom_base: Path, own_cache: Path) -> Path:
    """Return the folder of caches of exams below another base folder than the run's, beside `own_cache`, the run's.

    It is that of a cohort that was evaluated with this base folder, else one named like the base folder. Raises UserError if a
    file of a cohort is damaged.
    """
    of_cohorts = (own.cache_dir for own in cohorts_of(reports) if own.dicom_base.resolve() == dicom_base.resolve())
    return next(of_cohorts, own_cache.with_name(f"{own_cache.name}_{dicom_base.resolve().name}"))


def find_cohort(name: str, reports: Path, *, given: Mapping[str, Any], own_manifest: Path, own_cache: Path) -> ExternalCohort:
    """Return the cohort of this name from the flags that were given, and for the others from what an evaluation kept.

    given: settings that flags name; own_manifest, own_cache: those of the run. A cohort without a folder of caches gets one
    beside the run's. Raises UserError if a path is missing, the manifest is the run's, or the name is another cohort's.
    """
    known = ExternalCohort.read(reports, name)
    paths = {own: getattr(known, own) for own in OWN_PATHS if known} | {own: given[own] for own in OWN_PATHS if own in given}
    flag = f"--cohort {name}"
    if missing := [own for own in OWN_PATHS[:2] if own not in paths]:
        flags = " and ".join(f"--{own.replace('_', '-')}" for own in missing)
        near = near_names(name, recorded := _recorded(reports))
        listed = ", ".join([*near, *(other for other in recorded if other not in near)])
        there = f"; cohorts of this run: {listed}" if listed and not known else ""
        raise UserError(f"{flag}: has no {flags} yet{there}; build_manifest_ears makes the manifest of a cohort, --dicom-base "
                        "is the folder of its images; the first evaluation keeps both")
    cohort = ExternalCohort(name=name, **{"cache_dir": own_cache.with_name(f"{own_cache.name}_{name}"), **paths})
    if cohort.manifest_csv.resolve() == own_manifest.resolve():
        raise UserError(f"{flag}: --manifest-csv {cohort.manifest_csv} is the manifest of the run itself, expected that of "
                        f"other patients; --split {WHOLE_MANIFEST} evaluates all of its own")
    if known and cohort.manifest_csv.resolve() != known.manifest_csv.resolve():
        raise UserError(f"{flag}: is the name of {known.manifest_csv} in this run; choose another name for "
                        f"{cohort.manifest_csv}, or remove {reports / f'cohort_{name}.json'}")
    return cohort
