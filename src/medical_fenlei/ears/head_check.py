"""Whether a scan shows a head at all, and slices that no scanner makes: from the coarse copy in which the ears are sought.

Assumptions, each with its anatomical reason:
- Beside the ears the skull lies close below the skin, and what it encloses is brain and bone. In the trunk the ribs enclose
  lungs, or bone lies deep, or is too far apart; limbs have no bone near the skin on their outside.
- Noise makes every slice differ from every other one, and a head has no empty slice.
"""
import numpy as np

from medical_fenlei.ears.symmetry import TISSUE_HU

BONE_ABOVE_HU = 300.0
"""HU above which a voxel of the coarse copy is taken for bone."""

SKULL_DEPTH_MM = 40.0
"""Largest depth of the skull below the skin: auricle, temporal muscle, swelling."""

SKULL_MM = (70.0, 180.0)
"""Distance between the outer surfaces of the skull, from a newborn's to that of a large adult."""

MAX_AIR = 0.35
"""Largest share of air between the two sides of the skull: cells, sinuses, pharynx; lungs take more."""

JUDGED_MM = 80.0
"""Narrower scans are not judged: not even the skin and the ear of one side fit into them."""

MIN_SKULL = 0.3
"""Smallest share of rows in which a head shows its skull: drawn heads 0.58 and more, drawn bodies 0.18 and less."""

EMPTY, FULL = 0.01, 0.1
"""Share of tissue in a slice that shows nothing, and in slices around it that show a head."""

VARIED_HU = 50.0
"""Standard deviation of a slice that shows something."""

SOFT_HU, SCALED_SOFT_HU, SCALED_BONE_HU = (-60.0, 200.0), 60.0, 1900.0
"""HU among which the peak of soft tissue is sought; HU of that peak, and of the densest tenth of bone, that look multiplied."""

OTHER_PARTS = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "AORTA", "ARM", "BREAST", "CALCANEUS", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS",
    "CLAVICLE", "COCCYX", "COLON", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEART", "HIP",
    "HUMERUS", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LSSPINE", "LUNG", "PANCREAS", "PELVIS", "RADIUS", "RIB", "SACRUM",
    "SCAPULA", "SHOULDER", "SPINE", "SPLEEN", "SSPINE", "STERNUM", "TIBIA", "TSPINE", "THIGH", "THORAX", "TLSPINE", "TOE",
    "ULNA", "WHOLEBODY", "WRIST"))
"""Values of BodyPartExamined (DICOM PS3.16 annex L) that name no part of the head, without spaces."""


def skull_share(hu: np.ndarray, column_mm: float, *, one_sided: bool) -> float:
    """Return the share of rows beside the ears where the skull lies as in a head, on the better of the two sides.

    hu (K, rows, columns): HU in the canonical order without the head rest, some 2 mm per pixel; one_sided: whether only one
    side of the head lies in the scan, whose width is then unknown. Scans narrower than JUDGED_MM count as 1.
    """
    if hu.shape[2] * column_mm < JUDGED_MM:
        return 1.0
    filled = np.flatnonzero((hu > TISSUE_HU).mean(axis=(0, 2)) > FULL)
    if not len(filled):
        return 0.0
    quarter = (filled[-1] - filled[0]) // 4                      # the middle half, from before the ears to behind them
    part = hu[::2, filled[0] + quarter:filled[-1] - quarter + 1:2]
    tissue, bone = part > TISSUE_HU, part > BONE_ABOVE_HU
    shown, air = bone.any(axis=2), np.cumsum(~tissue, axis=2, dtype=np.int16)
    first, last = _ends(bone)
    width = (last - first) * column_mm
    within = (np.take_along_axis(air, end[..., None], 2)[..., 0] for end in (last, first))
    enclosed = np.subtract(*within) / (last - first + 1)
    is_skull = shown & (enclosed < MAX_AIR)
    if not one_sided:
        is_skull &= (width > SKULL_MM[0]) & (width < SKULL_MM[1])
    rows = max(1, int(tissue.any(axis=2).sum()))
    depths = (np.abs(end - skin) * column_mm for end, skin in zip((first, last), _ends(tissue), strict=True))
    return max(float((is_skull & (depth <= SKULL_DEPTH_MM)).sum()) / rows for depth in depths)


def _ends(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last column that shows something, for each row; those at the edges where none does."""
    return shown.argmax(axis=2), shown.shape[2] - 1 - shown[..., ::-1].argmax(axis=2)


def doubts_about_slices(hu: np.ndarray) -> tuple[str, ...]:
    """Return what is doubtful about the slices of a scan, each as `<code>: <detail>`.

    hu (K, rows, columns): HU of slices some mm apart, lowest first, some 2 mm per pixel.
    """
    doubts, few = [], np.ascontiguousarray(hu[:, ::2, ::2])
    varied = [image.tobytes() for image in few if image.std() > VARIED_HU]
    if repeated := len(varied) - len(set(varied)):
        doubts.append(f"repeated_slices: {repeated} of the {len(hu)} slices that were looked at repeat another one")
    tissue = (few > TISSUE_HU).mean(axis=(1, 2))
    full = np.flatnonzero(tissue > FULL)
    if len(full) and (blank := int((tissue[full[0]:full[-1]] < EMPTY).sum())):
        doubts.append(f"blank_slices: {blank} of the {len(hu)} slices that were looked at are empty, between others that are "
                      "not")
    soft, bone = few[(few > SOFT_HU[0]) & (few < SOFT_HU[1])], few[few > BONE_ABOVE_HU]
    if soft.size and bone.size:
        counts, edges = np.histogram(soft, np.arange(SOFT_HU[0], SOFT_HU[1] + 1, 5))
        peak = float(edges[np.convolve(counts, np.ones(3), mode="same").argmax()]) + 2.5
        dense = float(np.percentile(bone, 90))
        if peak > SCALED_SOFT_HU and dense > SCALED_BONE_HU:
            doubts.append(f"scaled_hu: soft tissue lies near {peak:.0f} HU and dense bone near {dense:.0f} HU, as if all "
                          "values were multiplied")
    return tuple(doubts)


def doubt_about_body_part(body_part: str) -> tuple[str, ...]:
    """Return the doubt, as `<code>: <detail>`, where BodyPartExamined names a known part of the body other than the head."""
    known = "".join(char for char in body_part.upper() if char.isalpha())
    return (f"other_body_part: BodyPartExamined is {known}",) if known in OTHER_PARTS else ()
