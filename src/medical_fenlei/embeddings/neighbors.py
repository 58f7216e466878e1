"""The cases that an ear resembles most: what a reader can look up, where a score alone says little."""
import numpy as np
import pandas as pd
from sklearn.metrics import pairwise_distances_chunked

from medical_fenlei import tables
from medical_fenlei.embeddings.vectors import Embeddings, standardised

MOST = 5
RESOLUTION = 1e-9
"""Cosine distances that differ by less are equal; the exam's id then decides."""
OWN = 3.0
"""Stands for the distance to an ear of the same patient; others are 2 at most."""
CHUNK_MIB = 64
"""Of distances held at a time."""


def neighbours(train: Embeddings, val: Embeddings, *, most: int = MOST) -> pd.DataFrame:
    """`tables.NEIGHBORS`: of each validation ear the nearest training ears, never of the same patient, the nearest first.

    Cosine distance of embeddings standardised by the training ears. Fewer than `most` where there are fewer.
    """
    train = train[np.lexsort((train.side, train.exam_id))]
    x, asked = standardised(train.embedding, val.embedding)
    _, person = np.unique(np.concatenate([train.patient_key, val.patient_key]), return_inverse=True)
    of_train, of_val = person[:len(train)], person[len(train):]

    def nearest(distance: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        own = of_val[start:start + len(distance), None] == of_train
        steps = np.rint(np.where(own, OWN, distance) / RESOLUTION).astype(np.int64)
        place = steps * len(train) + np.arange(len(train))                               # in order, and no two alike
        few = min(most, len(train))
        near = np.argpartition(place, few - 1, axis=1)[:, :few]
        near = np.take_along_axis(near, np.take_along_axis(place, near, 1).argsort(1), 1)
        return near, np.take_along_axis(np.where(own, np.nan, distance), near, 1)

    parts = pairwise_distances_chunked(asked, x, metric="cosine", reduce_func=nearest, working_memory=CHUNK_MIB)
    near, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
    ear, at = np.nonzero(~np.isnan(distance))
    of, to = val[ear], train[near[ear, at]]
    return tables.NEIGHBORS.frame(pd.DataFrame({
        "exam_id": of.exam_id, "side": of.side, "label_code": of.label_code, "rank": at + 1, "neighbour_exam_id": to.exam_id,
        "neighbour_side": to.side, "neighbour_label_code": to.label_code, "distance": distance[ear, at],
    }))
