"""The training ears most similar to a query ear: cases that a reader can look up where a score alone says little."""
import numpy as np
import pandas as pd
from sklearn.metrics import pairwise_distances_chunked

from medical_fenlei import tables
from medical_fenlei.embeddings.vectors import Embeddings, standardised

TOP_K = 5
"""Neighbors of an ear by default."""
RESOLUTION = 1e-9
"""Cosine distances that differ by less count as equal; the exam's id then decides."""
SAME_PATIENT = 3.0
"""Replaces the distance to an ear of the same patient; all others are 2 at most."""
CHUNK_MIB = 64
"""Distances held at a time, in MiB."""


def find_neighbors(train: Embeddings, query: Embeddings, *, top_k: int = TOP_K) -> pd.DataFrame:
    """Return `tables.NEIGHBORS`: the nearest training ears of each query ear, never of the same patient, the nearest first.

    Cosine distance of embeddings standardised by the training ears. Fewer than `top_k` if there are fewer.
    """
    train = train[np.lexsort((train.side, train.exam_id))]
    train_vectors, query_vectors = standardised(train.embedding, query.embedding)
    _, person = np.unique(np.concatenate([train.patient_key, query.patient_key]), return_inverse=True)
    train_person, query_person = person[:len(train)], person[len(train):]

    def nearest(distance: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        same = query_person[start:start + len(distance), None] == train_person
        steps = np.rint(np.where(same, SAME_PATIENT, distance) / RESOLUTION).astype(np.int64)
        order = steps * len(train) + np.arange(len(train))                               # by distance, without ties
        count = min(top_k, len(train))
        near = np.argpartition(order, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(near, np.take_along_axis(order, near, 1).argsort(1), 1)
        return near, np.take_along_axis(np.where(same, np.nan, distance), near, 1)

    parts = pairwise_distances_chunked(query_vectors, train_vectors, metric="cosine", reduce_func=nearest,
                                       working_memory=CHUNK_MIB)
    near, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
    ear, rank = np.nonzero(~np.isnan(distance))
    own, neighbor = query[ear], train[near[ear, rank]]
    return tables.NEIGHBORS.frame(pd.DataFrame({
        "exam_id": own.exam_id, "side": own.side, "label_code": own.label_code, "rank": rank + 1,
        "neighbor_exam_id": neighbor.exam_id, "neighbor_side": neighbor.side, "neighbor_label_code": neighbor.label_code,
        "distance": distance[ear, rank],
    }))
