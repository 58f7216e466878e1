"""Nearest neighbors by cosine distance: never of the same patient, in a fixed order, and the same in chunks as at once."""
import numpy as np
import pandas as pd
from helpers.small_embeddings import draw, with_changes
from sklearn.metrics import pairwise_distances

from medical_fenlei import tables
from medical_fenlei.embeddings.neighbors import find_neighbors
from medical_fenlei.embeddings.vectors import standardised


def test_the_nearest_cases_are_the_nearest_of_other_patients():
    train = draw(10, 12, 4)
    twin = train[np.arange(10)]                                  # the same ears again: nearest to themselves, and not allowed
    near = find_neighbors(train, twin)
    patient = dict(zip(train.exam_id.tolist(), train.patient_key.tolist(), strict=True))
    assert (near.exam_id.map(patient) != near.neighbor_exam_id.map(patient)).all()
    x, query = standardised(train.embedding, twin.embedding)
    far = pairwise_distances(query, x, metric="cosine")
    for v in range(len(twin)):
        others = sorted((far[v, t], train.exam_id[t], train.side[t]) for t in range(len(train))
                        if train.patient_key[t] != twin.patient_key[v])[:5]
        own = near[(near.exam_id == twin.exam_id[v]) & (near.side == twin.side[v])]
        assert list(own["rank"]) == [1, 2, 3, 4, 5]
        assert [*zip(own.neighbor_exam_id, own.neighbor_side, strict=True)] == [o[1:] for o in others]
        np.testing.assert_allclose(own.distance, [o[0] for o in others], atol=1e-9)


def test_neighbors_found_in_chunks_are_those_found_at_once_and_fewer_where_there_are_fewer(monkeypatch):
    train = draw(27, 300, 9)
    at_once = find_neighbors(train, train)
    monkeypatch.setattr("medical_fenlei.embeddings.neighbors.CHUNK_MIB", 0.1)
    pd.testing.assert_frame_equal(find_neighbors(train, train), at_once, rtol=1e-9)      # last bits follow the chunk
    few = find_neighbors(train[np.arange(4)], train[np.arange(3)])   # two patients of two ears: two of another patient for each
    assert len(few) == 6 and few["rank"].tolist() == [1, 2] * 3
    alone = find_neighbors(train[np.arange(2)], train[np.arange(2)])
    assert len(alone) == 0 and list(alone.columns) == list(tables.NEIGHBORS.columns)


def test_equally_near_cases_are_ordered_by_exam():
    train = draw(29, 8, 3)[np.array([12, 3, 8, 1, 14, 5])]
    same = with_changes(train, embedding=np.repeat(train.embedding[[0, 1]], 3, axis=0))
    near = find_neighbors(same, draw(30, 6, 2, name="q"))
    for _, own in near.groupby(["exam_id", "side"]):
        assert own.neighbor_exam_id.iloc[:3].is_monotonic_increasing and own.distance.is_monotonic_increasing
