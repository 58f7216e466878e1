"""Look up the training ears most similar to one ear, or to every ear of a set: a table, and a picture of each ear."""
from dataclasses import dataclass, replace
from pathlib import Path

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

    def agreement(self, *, n_resamples: int) -> Intervals:
        """Return how often neighbors share the label of the query ear, as `label_agreement` measures it."""
        return label_agreement(self.neighbors, self.train, self.query, n_resamples=n_resamples)[1]


def retrieve_for_set(
    network: TrainedNetwork, data: DataConfig, set_name: str, out_dir: Path, options: RetrievalOptions
) -> RetrievedNeighbors:
    """Look up the neighbors of every labelled ear of a set; writes `neighbors_<set>.csv`. Raises UserError if it has no ear."""
    query = network.open_set(replace(data, sample="ear"), set_name, None)
    return _retrieve(network, data, query, out_dir / f"neighbors_{set_label(set_name, data)}.csv", options)


def retrieve_for_ear(
    network: TrainedNetwork, data: DataConfig, exam_id: str, side: str, out_dir: Path, options: RetrievalOptions
) -> RetrievedNeighbors:
    """Look up the neighbors of one ear of the manifest; writes `<exam_id>_<side>.csv`. Raises UserError if it is not there."""
    query = network.open_ear(replace(data, sample="ear"), exam_id, side)
    return _retrieve(network, data, query, out_dir / f"{exam_id}_{side}.csv", options)


def _retrieve(
    network: TrainedNetwork, data: DataConfig, ears: EarSet, csv: Path, options: RetrievalOptions
) -> RetrievedNeighbors:
    train, train_set = training_embeddings(network, data, csv.parent, batch_size=options.batch_size)
    query = embed(network, ears.dataset, batch_size=options.batch_size)
    neighbors = find_neighbors(train, query, top_k=options.top_k)
    tables.NEIGHBORS.write(csv, neighbors)
    by_ear = list(neighbors.groupby(["exam_id", "side"], sort=False))[:options.pictures]
    for (exam_id, side), own in tqdm(by_ear, desc="pictures", disable=None, leave=False):
        draw_neighbors(csv.parent / f"{exam_id}_{side}.png", network, network.store(data), own)
    rejects = tables.REJECTS.frame(pd.concat([train_set.rejects, ears.rejects], ignore_index=True))
    return RetrievedNeighbors(train, query, neighbors, csv, len(by_ear), rejects)
