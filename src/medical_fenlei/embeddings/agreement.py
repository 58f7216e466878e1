"""How often do neighbors share the label of their query ear, compared with a training ear at random?"""
import numpy as np
import pandas as pd

from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.metrics.bootstrap import Intervals, PatientBootstrap
from medical_fenlei.vocabulary import UNLABELLED

COLUMNS = ("exam_id", "side", "patient_key", "label_code", "share", "first", "chance")
"""share: of the neighbors with the ear's label; first: whether the nearest one has it; chance: share of all training ears of
other patients with it."""


def label_agreement(
    neighbors: pd.DataFrame, train: Embeddings, query: Embeddings, *, n_resamples: int = 2000, seed: int = 0
) -> tuple[pd.DataFrame, Intervals]:
    """Measure how often the neighbors of labelled query ears have the same label.

    neighbors: `tables.NEIGHBORS` of `query` in `train`. Returns COLUMNS, a row for each labelled query ear with neighbors; and
    the means of share, first and chance over these ears, with ratio = share / chance, with 95 % intervals by patient.
    """
    rows = []
    for n in np.flatnonzero(query.label_code != UNLABELLED):
        own = neighbors[(neighbors.exam_id == query.exam_id[n]) & (neighbors.side == query.side[n])].sort_values("rank")
        if own.empty:
            continue
        alike = (own.neighbor_label_code == query.label_code[n]).to_numpy()
        others = train.label_code[train.patient_key != query.patient_key[n]]
        rows.append({"exam_id": query.exam_id[n], "side": query.side[n], "patient_key": query.patient_key[n],
                     "label_code": int(query.label_code[n]), "share": alike.mean(), "first": float(alike[0]),
                     "chance": (others == query.label_code[n]).mean()})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = table[["share", "first", "chance"]].to_numpy(float)

    def measures(weight: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            share, first, chance = (weight @ numbers / weight.sum(1, keepdims=True)).T
            return {"share": share, "first": first, "chance": chance, "ratio": share / chance}

    bootstrap = PatientBootstrap(patient=table.patient_key.to_numpy(), observations=numbers, seed=seed, n_resamples=n_resamples)
    return table, bootstrap.intervals(measures, scales={"ratio": "log"})
