"""Sentences on a new exam: why an ear has no answer, and what is doubtful about one."""
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from medical_fenlei.anatomy.second_opinion import SecondOpinion
from medical_fenlei.ears.prepare import EarVolume
from medical_fenlei.explanations.maps import NOT_FINITE
from medical_fenlei.ingest.exams import LooseExam
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.new_exams.answers import Remark, TaskAnswer

LOW_CONFIDENCE, PADDED, NEAR = 0.5, 0.05, 0.05
"""Limits of flags: least confidence of the location, largest share beyond the scan, least distance from the threshold."""

SERIES_REASONS = {
    "localizer": "a scout", "not_axial": "not axial", "too_large_spacing": "with slices too far apart",
    "too_few_slices": "with too few slices", "too_little_coverage": "covering too little of an ear",
    "single_ear": "of one ear, without one of the other", "refused_by_rules": "refused by --series-rules"}
"""Why a series was not chosen, by the reason's code."""

FILE_PROBLEMS = {
    "split_series": "of its series continue in another folder, which was not joined",
    "damaged_header": "files of the exam are damaged", "unreadable": "files of the exam could not be read",
    "too_large": "files of the exam are too large", "bad_attribute": "images have impossible header values",
    "shared_study_uid": "StudyInstanceUID is shared with exams of another date, AccessionNumber or frame of reference",
    "several_study_uids": "exam has several StudyInstanceUIDs and was taken as one, by AccessionNumber and date",
    "missing_attribute": "images lack a header value", "bad_size": "images have an impossible size"}
"""Problems with the files of an exam that may affect its answer, by the reason's code; a number goes before each."""

SERIES_NOTES = {"joined_fragments": "Its images have several SeriesInstanceUIDs and were joined",
                "taken_apart": "Its SeriesInstanceUID holds several scans, one of which was used",
                "cut_at_hole": "Slices are missing, the tallest part was used", "gantry_tilt": "The gantry was tilted",
                "resampled": "The slices are irregularly spaced and were resampled",
                "rounded_positions": "The positions of the slices are rounded",
                "doubtful_values": "Some values of the scan are doubtful"}
"""Notes on how the slices of a series were made regular, by their code."""

SCAN_DOUBTS = {"turned_over": "The scan may be turned over, and its sides exchanged",
               "repeated_slices": "Slices of the scan are repeated", "blank_slices": "Slices of the scan are empty",
               "scaled_hu": "The values of the scan may be no Hounsfield units",
               "other_body_part": "The header names another part of the body"}
"""Doubts about the scan that an ear was cut from, by their code."""


def no_series(exam: LooseExam) -> Remark:
    """Return why none of the exam's series was chosen."""
    reasons = [f"{SERIES_REASONS.get(reason, reason)} ({exam.redactor.hide(detail)})"
               for _, reason, detail in exam.choice.verdicts]
    if len(reasons) == 1:
        return Remark(code="no_series", text=f"Its only series is {reasons[0]}.")
    return Remark(code="no_series", text=f"None of its {len(reasons)} series can be used: {'; '.join(reasons)}.")


def no_ear(code: str, detail: str, hide: Callable[[str], str] = str) -> Remark:
    """Return why an ear could not be cropped; hide: redacts the sentence."""
    text = {
        "ear_not_in_scan": "The scan does not reach this ear.",
        "not_a_head": f"The scan does not show a head ({detail}).",
        "implausible_hu": f"The values of the scan are not Hounsfield units ({detail}).",
        NOT_FINITE: "The network's output for this ear is not finite, so that it has no answer.",
        "several_patients": "Its series mix images of different patients: remove what does not belong to the exam.",
    }.get(code, f"It could not be read ({code}: {detail}).")
    return Remark(code=code, text=hide(text))


def near_threshold(answers: Sequence[TaskAnswer]) -> list[Remark]:
    """Return a flag for each task whose probability lies close to its threshold."""
    near = [answer for answer in answers
            if answer.threshold is not None and abs([*answer.classes.values()][-1] - answer.threshold) < NEAR]
    return [Remark(code="near_threshold", text="The probability lies close to the threshold"
                   + (f" ({answer.task})." if len(answers) > 1 else ".")) for answer in near]


def scan_flags(
    exam: LooseExam, series: SeriesScan, ear: EarVolume, opinion: SecondOpinion, rules: SeriesRules
) -> list[Remark]:
    """Return what is doubtful about the location of the ear, the series and the files of the exam."""
    return [*_location_flags(ear, opinion), *_series_flags(exam, series, rules), *_file_flags(exam)]


def _location_flags(ear: EarVolume, opinion: SecondOpinion) -> Iterator[Remark]:
    found = ear.facts["localization"]
    if found["method"] != "landmarks":
        source = "from the other side" if found["method"] == "mirrored" else "where the bone is thickest"
        yield Remark(code="place_guessed", text=f"The ear itself was not recognised; its location was taken {source}.")
    elif found["confidence"] < LOW_CONFIDENCE:
        yield Remark(code="low_confidence", text=f"The ear was found with low confidence ({found['confidence']:.2f} of 1).")
    for reason in found["reasons"]:
        yield Remark(code="place_doubtful", text=f"About its location: {reason}.")
    if opinion.doubt:
        yield Remark(code="place_doubtful", text=f"About its location: {opinion.doubt}.")
    for code, _, detail in (doubt.partition(": ") for doubt in ear.facts["scan_doubts"]):
        yield Remark(code=code, text=f"{SCAN_DOUBTS.get(code, code)}: {detail}.")
    if ear.facts["padded_share"] > PADDED:
        yield Remark(code="padded", text=f"{ear.facts['padded_share']:.0%} of the network's input lies beyond the scan.")


def _series_flags(exam: LooseExam, series: SeriesScan, rules: SeriesRules) -> Iterator[Remark]:
    if not rules.is_bone(series):
        yield Remark(code="no_bone_kernel", text=f"Not a bone kernel ({series.kernel or 'not named'}).")
    if series.z_coverage < rules.full_z_coverage_mm:
        yield Remark(code="limited_z_coverage", text=f"The scan covers only {series.z_coverage:.0f} mm along z: part of the "
                                                     "ear may be missing.")
    for note in series.notes:
        code, _, detail = note.partition(": ")
        yield Remark(code=code, text=f"{SERIES_NOTES.get(code, code)} ({detail}).")
    if exam.choice.chosen and len(exam.choice.chosen.series) > 1:
        yield Remark(code="series_of_one_ear", text="A reconstruction of this ear alone was used.")


def _file_flags(exam: LooseExam) -> Iterator[Remark]:
    counts = Counter(reason for _, reason, _ in exam.problems if reason in FILE_PROBLEMS)
    for reason, number in sorted(counts.items()):
        yield Remark(code=reason, text=f"{number} {FILE_PROBLEMS[reason]}.")
