"""The scans for which a network's predictions are meaningful: those like the scans it was trained on."""
import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from medical_fenlei import tables
from medical_fenlei.config import EarSpec
from medical_fenlei.ears.crop_extent import depends_on_pixels
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.ingest.manifest import header_facts
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.new_exams.answers import Remark
from medical_fenlei.tasks import OUTSIDE
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.training_set import MARGIN, TrainingSetSummary

LIMITED_FACTS = {"slice_increment_mm": ("slice_spacing_out_of_range", "Slices are", "apart"),
                 "slice_thickness_mm": ("thickness_out_of_range", "Slices are", "thick"),
                 "pixel_spacing_mm": ("pixel_out_of_range", "Pixels are", "wide")}
"""Header facts that must lie within the training set's range: code of the refusal, and the sentence around the number."""


@dataclass(frozen=True)
class Scope:
    """What a network was trained on, and which scans it may therefore answer."""

    trained_on: TrainingSetSummary | None
    """None if it is not known."""

    source: str
    """Source of the summary: checkpoint, manifest, or nothing."""

    rules: SeriesRules
    ears: EarSpec
    """How the network's ears are cut."""

    @property
    def bone_alone(self) -> bool:
        """Whether the network was trained on bone kernels only."""
        known = self.trained_on.kernels if self.trained_on else {}
        return bool(known) and all(self.rules.is_bone_kernel(maker, kernel) for maker, own in known.items() for kernel in own)

    def refusals(self, series: SeriesScan) -> list[Remark]:
        """Return why the network must not answer for a series; empty if it may."""
        facts, known, found = header_facts(series), self.trained_on, []
        if known is None:
            return []
        if self.bone_alone and not self.rules.is_bone(series):
            found.append(Remark(code="no_bone_kernel", text=f"Its kernel ({facts['kernel'] or 'not named'}) is not a bone "
                                                            "kernel; the network was trained on bone kernels only."))
        for name, (code, begin, end) in LIMITED_FACTS.items():
            value = math.nan if facts[name] is None else float(facts[name])
            if known.is_outside(name, value):
                low, high = known.ranges[name]
                crop = self._crop_text(value, low, high) if name == "pixel_spacing_mm" else ""
                found.append(Remark(code=code, text=f"{begin} {value:.2f} mm {end}; the network was trained on {low:.2f} to "
                                                    f"{high:.2f} mm; up to {MARGIN:.0%} beyond that is accepted.{crop}"))
        return found

    def _crop_text(self, spacing: float, low: float, high: float) -> str:
        """Return a sentence on the crop at this pixel spacing and at those of the training set; "" if it is always alike."""
        if not depends_on_pixels(self.ears):
            return ""
        own, least, most = (self.ears.crop_size * each for each in (spacing, low, high))
        return f" A crop of {self.ears.crop_size} pixels shows {own:.0f} mm here, in training {least:.0f} to {most:.0f} mm."

    def flags(self, series: SeriesScan, age_years: int | None) -> list[Remark]:
        """Return what is new to the network about a series, or cannot be compared with its training set."""
        facts, known, found = header_facts(series), self.trained_on, []
        if known is None:
            return [Remark(code="scope_unknown", text="It is not known what the network was trained on: whether this scan is "
                                                      "similar could not be checked.")]
        maker, kernel = str(facts["manufacturer"]), str(facts["kernel"])
        if known.kernels and kernel not in known.kernels.get(maker, {}):
            found.append(Remark(code="new_kernel", text="The network was trained on no scan of this maker and kernel "
                                                        f"({maker or 'not named'}, {kernel or 'not named'})."))
        if facts["slice_thickness_mm"] is None:
            found.append(Remark(code="thickness_unknown", text="The header does not say how thick the slices are."))
        if age_years is not None and known.is_outside("age_years", age_years):
            low, high = known.ranges["age_years"]
            found.append(Remark(code="age_out_of_range", text="The patient is younger or older than all on whom the network "
                                                              f"was trained ({low:.0f} to {high:.0f} years)."))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the training set's summary and where it is known from, as values for JSON."""
        return {"known_from": self.source, **(self.trained_on.to_dict() if self.trained_on else {})}


def scope_of(network: TrainedNetwork, rules: SeriesRules) -> Scope:
    """Return the scope of a network, from its checkpoint.

    Checkpoints of earlier versions lack it: it is then computed from the run's manifest and split, if they are unchanged.
    """
    known, ears = network.checkpoint.trained_on, network.config.ears
    if known is not None:
        return Scope(known, "checkpoint", rules, ears)
    with contextlib.suppress(UserError, OSError):
        data, hashes = network.config.data, network.run.read_hashes()
        split_csv = data.splits_root / f"{data.pct}pct" / "train.csv"
        if sha256(data.manifest_csv) == hashes.get("manifest") and sha256(split_csv) == hashes.get("train"):
            manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.SPLIT.read(split_csv)
            code = manifest.label_code.to_numpy()
            concerned = np.any([task.targets(code) != OUTSIDE for task in network.tasks], axis=0)
            trained_on = manifest[concerned & manifest.exam_id.isin(split.exam_id)]
            return Scope(TrainingSetSummary.from_ears(trained_on), "manifest", rules, ears)
    return Scope(None, "nothing", rules, ears)
