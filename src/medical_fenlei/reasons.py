"""Why something could not be used: every reason code of a reject, with its meaning and what to do, in one table.

Codes are raised where the matter is found (`Rejected`). The lines on the screen, the pages, what counts as a fault and the
table in docs/artifacts.md come from here; a test compares the table with the codes in the source.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Concern = Literal["label sheet", "folder", "file", "series", "exam", "ear", "cache", "archive", "run", "program"]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason why something is left out."""

    code: str
    """A short code that can be counted."""

    meaning: str
    """What was found, in a few words."""

    remedy: str
    """What to do about it; "" for nothing."""

    is_fault: bool
    """Whether the input is at fault: the exit status is then 3."""

    is_used: bool
    """Whether what it concerns is used all the same."""

    concerns: Concern
    """What is left out or has to be changed."""

    @property
    def outcome(self) -> str:
        """What becomes of what it concerns, in a word or two."""
        if self.is_used:
            return "used, to be checked" if self.is_fault else "used"
        return "left out" if self.is_fault else "passed over"


def _group(concerns: Concern, entries: Mapping[str, tuple[str, str]], *, is_fault: bool = True, is_used: bool = False
           ) -> dict[str, Reason]:
    """Return reasons of one kind. entries: meaning and remedy by code."""
    return {code: Reason(code=code, meaning=meaning, remedy=remedy, is_fault=is_fault, is_used=is_used, concerns=concerns)
            for code, (meaning, remedy) in entries.items()}


REASONS: dict[str, Reason] = {
    **_group("label sheet", {
        "no_exam_id": ("a row with a label and no exam id", "type the id, or clear the labels"),
        "unparsable_exam_id": ("an id that may have lost digits, or is none", "type it again in a column of text"),
        "unparsable_label": ("no code 1 to 6, several codes, or a code whose words disagree", "leave one code in the cell"),
        "conflicting_label": ("rows of one exam with different labels for an ear", "correct the wrong row"),
        "formula_without_value": ("a formula whose value is not stored in the file", "open it in Excel or WPS and save it"),
        "merged_cell": ("a cell merged with another column, or over hidden values", "split the cell and type each value"),
        "shifted_row": ("a CSV row with more cells than the header", "quote the text that contains the delimiter"),
    }),
    **_group("label sheet", {
        "unparsable_date": ("an invalid or ambiguous date", "write the date as YYYY-MM-DD"),
    }, is_fault=False, is_used=True),
    **_group("label sheet", {
        "missing_on_disk": ("no folder is named like this exam of the sheet; the detail lists similar names (`00123_2`, "
                            "`CT00123`, an exam one folder deeper, an archive)",
                            "rename or move the folder, or correct the id in the sheet"),
    }, is_fault=False),
    **_group("folder", {
        "not_in_sheet": ("an exam folder that the label sheet does not list", "add the exam to the sheet if it has labels"),
        "several_folders": ("the exam has another folder, which is used; the detail says which and why, and the count "
                            "`ambiguous` counts such exams", "remove the folder that is not of the labelled exam"),
        "hidden_folder": ("a folder whose name begins with a dot; it is not searched", "rename it if it holds images"),
        "special_file": ("a pipe, a socket or a device; it is not opened", "remove it"),
    }, is_fault=False),
    **_group("folder", {
        "outside_exam": ("files outside any `<YYYY-MM-DD>/<exam_id>/` folder", "move them into an exam's folder"),
        "not_unpacked": ("an archive among the exams", "extract it to `<YYYY-MM-DD>/<exam_id>/`"),
        "bad_link": ("a link to a folder, to nothing or to itself; it is not followed", "put the folder itself there"),
        "missing_folder": ("the folder of an indexed series is gone", "build the index again"),
        "outside_base": ("a path that leads out of its base folder", "put the files below the base folder"),
    }),
    **_group("file", {
        "not_dicom": ("a file that is not DICOM, empty, or an archive", "remove it, or export the image again"),
        "unreadable": ("a file or folder that cannot be opened", "correct its permissions, or copy it again"),
        "damaged_header": ("a header that cannot be parsed", "copy or export it again"),
        "too_large": ("a file that decompresses to an implausible size", "export it again"),
        "missing_attribute": ("a required header value is absent", "export it again from the PACS"),
        "bad_attribute": ("a header value that is impossible", "export it again from the PACS"),
        "bad_size": ("impossible numbers of rows, columns, frames or samples", "export it again from the PACS"),
        "bad_pixels": ("pixels that are damaged or cannot be decoded", "copy or export it again"),
        "changed_file": ("a file that changed after it was indexed", "build index and manifest again"),
    }),
    **_group("series", {
        "not_ct": ("not a CT image", ""),
        "localizer": ("a scout", ""),
        "not_axial": ("not near the axial plane", ""),
        "too_large_spacing": ("slices too far apart", "--series-rules changes the limit"),
        "too_few_slices": ("too few slices", "check that the export is complete"),
        "too_little_coverage": ("too little z-coverage", "check that the export is complete"),
        "single_ear": ("one ear, and no matching series shows the other", "check that the export is complete"),
        "refused_by_rules": ("refused by a pattern of --series-rules", "--series-rules changes the patterns"),
        "not_hu": ("a map of a material, a density or an atomic number: its RescaleType is not HU", ""),
        "not_chosen": ("a usable series beside a better one, or in another folder of the exam", ""),
        "copies": ("files that repeat an image", ""),
        "other_study": ("of another study than the one that fits the folder's id or date", "remove it, or move it to its exam"),
    }, is_fault=False),
    **_group("series", {
        "unknown_kernel": ("a kernel in no table, which counts as no bone kernel",
                           "put the line that the detail names into --series-rules"),
    }, is_fault=False, is_used=True),
    **_group("exam", {
        "shared_study_uid": ("exams that do not belong together share a StudyInstanceUID; they stay separate", ""),
        "several_study_uids": ("an exam with several StudyInstanceUIDs and no other difference; taken as one study", ""),
    }, is_fault=False, is_used=True),
    **_group("exam", {
        "several_studies": ("studies that fit the folder equally well", "leave only the study that the label is of"),
        "exchanged_folder": ("images with the AccessionNumber of another exam", "move them to the folder of that exam"),
    }),
    **_group("exam", {
        "unconfirmed_study": ("several StudyInstanceUIDs, and nothing confirms that they are one study",
                              "check that the folder holds no prior"),
        "study_date_differs": ("images of another day than the folder, unlike most exams", "check that they are of this exam"),
    }, is_used=True),
    **_group("series", {
        "split_series": ("a series that continues in another folder; each part counts as a series", "put it into one folder"),
        "doubtful_values": ("noise, lost pixels or slices, or padding inside the head",
                            "look at the file that the detail names, and export it again if it is damaged"),
        "turned_over": ("the landmarks of the ears fit as well with the pixels upside down or back to front",
                        "compare the scan with the PACS: sides may be exchanged; export it again"),
        "repeated_slices": ("slices that repeat the pixels of another one", "export the series again"),
        "blank_slices": ("empty slices between others that show the head", "export the series again"),
        "scaled_hu": ("soft tissue and bone both too dense, as if all HU were multiplied",
                      "check RescaleSlope and RescaleIntercept, and export the series again"),
        "other_body_part": ("BodyPartExamined names another part of the body than the head", "look at the scan"),
    }, is_used=True),
    **_group("series", {
        "unjoined_fragments": ("images that may be one scan under several SeriesInstanceUIDs", "export the series again"),
        "named_path": ("a series in a folder or in files that are named like the patient; their names are told nowhere",
                       "rename folders and files, for example to numbers: every table would hold the name"),
        "named_exam": ("an exam whose folder, and so its exam id, is named like the patient; it is in no table",
                       "name folder and exam in the label sheet by a number"),
        "empty_series": ("fewer than two images", "export the series again"),
        "mixed_orientation": ("slices in different directions", "export the series again"),
        "mixed_size": ("slices of different size or pixel spacing", "export the series again"),
        "mixed_series": ("a folder of several series where one was indexed", "build the index again"),
        "duplicate_positions": ("slices that share a position", "separate the reconstructions of the series"),
        "displaced_slices": ("slices aside of the line of the others", "export the series again"),
        "irregular_positions": ("slices at irregular distances", "add the missing slices"),
        "missing_series": ("the indexed series is gone or has changed", "build the index again"),
        "not_a_head": ("hardly any skull below the skin beside the ears: another part of the body, or a phantom",
                       "check that the series is of the head"),
        "implausible_hu": ("air, soft tissue or bone not where HU have them: rescaled twice or not at all, shifted, empty",
                             "export it again"),
    }),
    **_group("exam", {
        "no_series": ("no series of the exam can be used; the detail counts the reasons", "see the reasons of its series"),
        "several_patients": ("images of different patients (PatientID, else name and birth date) in an exam or a series",
                             "remove what does not belong to it"),
        "no_bone_kernel": ("not a bone kernel, and the network was trained on bone kernels only", "send the bone series"),
        "slice_spacing_out_of_range": ("a slice spacing unlike the training set's", "send another series, or use --force"),
        "thickness_out_of_range": ("a slice thickness unlike the training set's", "send another series, or use --force"),
        "pixel_out_of_range": ("a pixel spacing unlike the training set's", "send another series, or use --force"),
    }),
    **_group("ear", {
        "ear_not_in_scan": ("the series does not reach this ear: one of the other ear, or a scan that ends before it",
                            "check that the export is complete"),
        "not_finite": ("the network computes NaN or infinity for it", "train again with --precision fp32"),
    }),
    **_group("cache", {
        "damaged_entry": ("a cached ear that differs from what was written, or lacks facts",
                          "build_cache_ears or build_cache_dual with --verify"),
        "stale_entry": ("an ear that was cut from another series than the manifest names", "build the cache again"),
        "not_cached": ("an ear that the cache does not contain", "build the cache, if a split contains the exam"),
    }),
    **_group("archive", {
        "damaged_member": ("wrong data; the detail names the volumes with its bytes", "copy these volumes again"),
        "larger_than_declared": ("a member that is longer than its entry declares", "copy the archive again"),
        "encrypted": ("a member that needs a password", "pack it again without one"),
        "needs_7zip": ("a compression method that needs 7-Zip", "install 7-Zip"),
        "outside_folder": ("an absolute path, a drive letter, `..`, or a path through a link on the disk",
                           "extract it by hand"),
        "not_a_file": ("a link or a device", ""),
        "duplicate_member": ("the same path with other contents", "extract the archives to separate folders"),
        "clashes_with_folder": ("a file and a folder of the same name", "rename one of them"),
        "bad_name": ("a name that the disk cannot hold", "extract it by hand under another name"),
    }),
    **_group("run", {
        "not_possible": ("a run that cannot start with these settings or files", "do what its message says"),
        "check_failed": ("a check of a run that failed", "do what its message says"),
    }),
    **_group("program", {
        "disk_full": ("no space is left", "make room and run it again"),
        "process_died": ("reading this item ended its process, perhaps for lack of memory", "use fewer --num-workers"),
        "timed_out": ("reading this item took too long", "copy the file to a faster disk, and run it again"),
        "unexpected_error": ("anything else: the type of the error and its place in the code", "report it with this line"),
    }),
}
"""Every reason code, by itself."""

HARMLESS = frozenset(code for code, reason in REASONS.items() if not reason.is_fault)
"""Reasons that are recorded, but are no faults of the input."""


USED = frozenset(code for code, reason in REASONS.items() if reason.is_used)
"""Reasons of what is used all the same."""


def remedy(code: str) -> str:
    """Return what to do about a reason, or "" for nothing and for a code that the table lacks."""
    return REASONS[code].remedy if code in REASONS else ""


def markdown_rows() -> list[str]:
    """Return the table for docs/artifacts.md, one line per row."""
    head = ["| reason | concerns | meaning | what to do |", "|---|---|---|---|"]
    return head + [f"| `{reason.code}` | {reason.concerns} | {'' if reason.outcome == 'left out' else f'{reason.outcome}: '}"
                   f"{reason.meaning} | {reason.remedy or '–'} |" for reason in REASONS.values()]
