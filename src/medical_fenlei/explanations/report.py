"""The files of one explained ear: pictures of its top slices, the montage, and `gradcam.json`."""
from pathlib import Path
from typing import Any

import numpy as np

from medical_fenlei.explanations.explained_ear import ExplainedEar
from medical_fenlei.explanations.pictures import KINDS, write_montage, write_slice_pictures
from medical_fenlei.files import write_json


def write_explanation(ear: ExplainedEar, folder: Path, *, facts: dict[str, Any]) -> list[Path]:
    """Write `slice_<k>_{grey,heat,overlay}.png` of each top slice by the first method, `overview.png` and `gradcam.json`.

    facts: further entries of `gradcam.json`. Returns the files.
    """
    found, written, slices = ear.explanation, [], []
    for k in map(int, found.slices):
        files = [folder / f"slice_{k:03d}_{kind}.png" for kind in KINDS]
        write_slice_pictures(ear, k, files)
        written += files
        slices.append(_slice_facts(ear, k, files))
    montage, json_file = folder / "overview.png", folder / "gradcam.json"
    write_montage(ear, montage)
    write_json(json_file, {
        "exam_id": ear.exam_id, "side": str(ear.side), "label_code": ear.label_code or None, "class": found.class_name,
        "probability": found.probability, "ranked_by": found.ranked_by, **facts,
        "maps": [{"method": one.method, "layer": one.layer, "peak": one.peak, "peak_lps_mm": ear.peak_mm(one),
                  "peak_image": None if one.peak is None else ear.images[one.peak[0]].number}
                 for one in found.maps],
        "slices": slices,
    })
    return [*written, montage, json_file]


def _slice_facts(ear: ExplainedEar, k: int, files: list[Path]) -> dict[str, Any]:
    """What `gradcam.json` says about one slice: its weight, and the peak of the first map within it."""
    heat = ear.explanation.maps[0].heat[k]
    row, column = (int(i) for i in np.unravel_index(heat.argmax(), heat.shape))
    return {"slice": k, "z_mm": round(ear.z_mm(k), 2), "image": ear.images[k].number, "image_z_mm": ear.images[k].z_mm,
            "weight": float(ear.explanation.weights[k]), "heat": float(heat.max()),
            "peak_row": row, "peak_column": column, "peak_lps_mm": ear.position_mm((k, row, column)),
            "files": [path.name for path in files]}
