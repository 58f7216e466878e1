"""Look up the training ears most similar to one ear, or to every ear of a set: a table, and a picture of each ear."""
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.selection import set_label
from medical_fenlei.embeddings.agreement import label_agreement
from medical_fenlei.embeddings.extraction import embed, training_embeddings
from medical_fenlei.embeddings.neighbor_pictures import draw_neighbors
from medical_fenlei.embeddings.neighbors import TOP_K, find_neighbors
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import OWN_PATHS, is_cohort
from medical_fenlei.metrics.bootstrap import Intervals
from medical_fenlei.trained.ear_set import EarSet
from medical_fenlei.trained.network import TrainedNetwork


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """How neighbors are looked up and shown."""

    top_k: int = TOP_K
    """Neighbors of an ear."""

    pictures: int | None = None
    """Number of query ears that are drawn; None draws all."""

    batch_size: int | None = None
    """Ears per batch; None takes the run's."""

    kept: Path
    """Folder that keeps the embeddings of the training set."""


@dataclass(frozen=True)
class RetrievedNeighbors:
    """The neighbors of some query ears, and where they were written."""

    train: Embeddings
    query: Embeddings
    neighbors: pd.DataFrame
    """`tables.NEIGHBORS`."""

    csv: Path
    """The table of the neighbors; the pictures are beside it."""

    pictures: int
    """Ears that were drawn."""

    rejects: pd.DataFrame
    """`tables.REJECTS` of training and query ears."""

    notes: tuple[str, ...] = ()
    """Warnings about a cohort: patients that the network was fitted on."""

    def agreement(self, *, n_resamples: int) -> Intervals:
        """Return how often neighbors share the label of the query ear, as `label_agreement` measures it."""
        return label_agreement(self.neighbors, self.train, self.query, n_resamples=n_resamples)[1]


def retrieve_for_set(
    network: TrainedNetwork, data: DataConfig, set_name: str, out_dir: Path, options: RetrievalOptions
) -> RetrievedNeighbors:
    """Look up the neighbors of every labelled ear of a set; writes `neighbors_<set>.csv`. Raises UserError if it has no ear.

    set_name: a set of the split, or a cohort, whose neighbors are training ears of the run all the same.
    """
    query = network.open_set(replace(data, sample="ear"), set_name, None)
    csv = out_dir / f"neighbors_{set_label(set_name, data)}.csv"
    return _retrieve(network, data, query, csv, options, of_cohort=is_cohort(set_name))


def retrieve_for_ear(
    network: TrainedNetwork, data: DataConfig, exam_id: str, side: str, out_dir: Path, options: RetrievalOptions, *,
    cohort: str | None = None,
) -> RetrievedNeighbors:
    """Look up the neighbors of one ear of the manifest; writes `<exam_id>_<side>.csv`. Raises UserError if it is not there.

    cohort: the name of the cohort that the manifest is of; an ear of a patient that the network was fitted on is then refused.
    """
    query = network.open_ear(replace(data, sample="ear"), exam_id, side)
    if cohort is not None and network.shared_patients(query.ears, data, cohort).ears.any():
        raise UserError(f"--exam-id {exam_id}: the network was fitted on this patient, whose own ears would be the nearest; "
                        "choose another exam")
    return _retrieve(network, data, query, out_dir / f"{exam_id}_{side}.csv", options, of_cohort=cohort is not None)


def _retrieve(network: TrainedNetwork, data: DataConfig, ears: EarSet, csv: Path, options: RetrievalOptions, *,
              of_cohort: bool) -> RetrievedNeighbors:
    own = data
    if of_cohort:                                                # its manifest, images and cache hold no training ears
        own = replace(data, **{name: getattr(network.config.data, name) for name in OWN_PATHS})
    train, train_set = training_embeddings(network, own, options.kept, batch_size=options.batch_size)
    query = embed(network, ears.dataset, batch_size=options.batch_size)
    if of_cohort:                                                # equal keys of two hospitals are of different people here
        query = replace(query, patient_key=np.array([f"of the cohort: {key}" for key in query.patient_key]))
    neighbors = find_neighbors(train, query, top_k=options.top_k)
    tables.NEIGHBORS.write(csv, neighbors)
    by_ear = list(neighbors.groupby(["exam_id", "side"], sort=False))[:options.pictures]
    for (exam_id, side), rows in tqdm(by_ear, desc="pictures", disable=None, leave=False):
        draw_neighbors(csv.parent / f"{exam_id}_{side}.png", network, network.store(data), network.store(own), rows)
    rejects = tables.REJECTS.frame(pd.concat([train_set.rejects, ears.rejects], ignore_index=True))
    return RetrievedNeighbors(train, query, neighbors, csv, len(by_ear), rejects, ears.notes if of_cohort else ())
