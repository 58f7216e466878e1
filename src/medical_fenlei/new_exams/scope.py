"""What a network may be asked about: scans like those that it was trained on."""
import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.ingest.manifest import header_facts
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_choice import SeriesRules
from medical_fenlei.new_exams.answers import Said
from medical_fenlei.tasks import OUTSIDE
from medical_fenlei.trained.network import Trained
from medical_fenlei.training.trained_on import MARGIN, TrainedOn

SCOPE_WORDS = {"slice_increment_mm": ("step_out_of_range", "Slices lie", "apart"),
               "slice_thickness_mm": ("thickness_out_of_range", "Slices are", "thick"),
               "pixel_spacing_mm": ("pixel_out_of_range", "Pixels are", "wide")}
"""Of each number that has to lie within what the network was trained on: reason code, and the sentence around it."""


@dataclass(frozen=True)
class Scope:
    """What the network was trained on, and what it may therefore be asked about."""

    trained_on: TrainedOn | None
    source: str
    """checkpoint, manifest, or nothing."""

    rules: SeriesRules

    @property
    def bone_alone(self) -> bool:
        """Whether all that it was trained on had a bone kernel."""
        known = self.trained_on.kernels if self.trained_on else {}
        return bool(known) and all(self.rules.keeps_bone(maker, kernel) for maker, own in known.items() for kernel in own)

    def refusals(self, series: SeriesScan) -> list[Said]:
        """Why a series lies outside."""
        facts, known, found = header_facts(series), self.trained_on, []
        if known is None:
            return []
        if self.bone_alone and not self.rules.is_bone(series):
            found.append(Said(code="no_bone_kernel", text=f"Its kernel ({facts['kernel'] or 'not named'}) is none for bone; "
                                                          "the network was trained on bone kernels alone."))
        for name, (code, begin, end) in SCOPE_WORDS.items():
            value = math.nan if facts[name] is None else float(facts[name])
            if known.outside(name, value):
                low, high = known.ranges[name]
                found.append(Said(code=code, text=f"{begin} {value:.2f} mm {end}; the network was trained on {low:.2f} to "
                                                  f"{high:.2f} mm; up to {MARGIN:.0%} beyond that it may be asked."))
        return found

    def flags(self, series: SeriesScan, age_years: int | None) -> list[Said]:
        """What is new to the network, or cannot be compared."""
        facts, known, found = header_facts(series), self.trained_on, []
        if known is None:
            return [Said(code="scope_unknown", text="It is not known what the network was trained on: whether this scan is "
                                                    "like that could not be checked.")]
        maker, kernel = str(facts["manufacturer"]), str(facts["kernel"])
        if known.kernels and kernel not in known.kernels.get(maker, {}):
            found.append(Said(code="new_kernel", text="The network was trained on no scan of this maker and kernel "
                                                      f"({maker or 'not named'}, {kernel or 'not named'})."))
        if facts["slice_thickness_mm"] is None:
            found.append(Said(code="thickness_unknown", text="The header does not say how thick the slices are."))
        if age_years is not None and known.outside("age_years", age_years):
            low, high = known.ranges["age_years"]
            found.append(Said(code="age_out_of_range", text="The patient is younger or older than all that the network "
                                                            f"was trained on ({low:.0f} to {high:.0f} years)."))
        return found

    def plain(self) -> dict[str, Any]:
        return {"known_from": self.source, **(self.trained_on.plain() if self.trained_on else {})}


def scope_of(trained: Trained, rules: SeriesRules) -> Scope:
    """From the checkpoint; of one of an earlier version from the run's manifest and split, where they are as they were."""
    plain = trained.checkpoint.trained_on
    if plain is not None:
        return Scope(TrainedOn.from_plain(plain), "checkpoint", rules)
    with contextlib.suppress(UserError, OSError):
        data, hashes = trained.config.data, trained.run.read_hashes()
        split_csv = data.splits_root / f"{data.pct}pct" / "train.csv"
        if sha256(data.manifest_csv) == hashes.get("manifest") and sha256(split_csv) == hashes.get("train"):
            manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.SPLIT.read(split_csv)
            code = manifest.label_code.to_numpy()
            concerned = np.any([task.targets(code) != OUTSIDE for task in trained.tasks], axis=0)
            return Scope(TrainedOn.of(manifest[concerned & manifest.exam_id.isin(split.exam_id)]), "manifest", rules)
    return Scope(None, "nothing", rules)
