"""The result of a leakage check: what is shared, which of it is leakage, and how a report words it."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from medical_fenlei.leakage.shared import shared_exams, shared_marks, shared_patients
from medical_fenlei.tables import Split


@dataclass(frozen=True)
class LeakageReport:
    """Patients, exams and scans in several sets of a split, or under several patients."""

    patients: pd.DataFrame
    """`shared_patients`."""

    exams: pd.DataFrame
    """`shared_exams`."""

    scans: pd.DataFrame
    """`shared_marks`: exams that hold the same scan."""

    @classmethod
    def of(cls, manifest: pd.DataFrame, splits: Sequence[Split], marks: pd.DataFrame) -> "LeakageReport":
        """Check splits. marks: `exam_id, evidence, mark`, as in `shared`."""
        return cls(shared_patients(manifest, splits), shared_exams(splits), shared_marks(marks, manifest, splits))

    def counts(self) -> dict[str, int]:
        """Return the number of patients and exams in several sets, and of leaking groups of exams with the same scan.

        Patients count even if their split does not keep patients together.
        """
        return {"patients in several sets": self.patients.patient_key.nunique(),
                "exams in several sets": self.exams.exam_id.nunique(),
                "groups of exams with the same content": self.scans[self.scans.leak].exam_ids.nunique()}

    @property
    def has_leakage(self) -> bool:
        """Whether a split shares a patient or an exam, or a scan is a leak."""
        return any(len(table) for table, _, _ in self._leaks())

    def warnings(self) -> Iterator[str]:
        """Yield a line if scans are repeated without leakage."""
        repeated = self.scans[~self.scans.leak]
        if len(repeated):
            yield f"{repeated.exam_ids.nunique()} groups of exams hold the same, within one patient or set"

    def lines(self) -> Iterator[str]:
        """Yield the table of scans that are repeated without leakage, then each kind of leakage with its table."""
        repeated = self.scans[~self.scans.leak]
        if len(repeated):
            yield _shown(repeated)
        for table, column, description in self._leaks():
            if len(table):
                yield f"LEAKAGE: {table[column].nunique()} {description}"
                yield _shown(table)

    def _leaks(self) -> list[tuple[pd.DataFrame, str, str]]:
        """Return the offenders of each kind of leakage, the column that names one, and a description."""
        return [
            (self.patients, "patient_key", "patients are in several sets of one split"),
            (self.exams, "exam_id", "exams are in several sets of one split"),
            (self.scans[self.scans.leak], "exam_ids",
             "groups of exams hold the same, separated by a split or under several patients"),
        ]


def _shown(table: pd.DataFrame) -> str:
    return table.drop(columns=["leak"], errors="ignore").to_string(index=False)
