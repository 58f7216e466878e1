"""Compute the embeddings of ears with a trained network; those of the training set are kept between runs."""
import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medical_fenlei.config import DataConfig
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.errors import UserError
from medical_fenlei.trained.ear_set import EarSet
from medical_fenlei.trained.network import TrainedNetwork

PART_EARS = 256
"""Ears whose embeddings are written together; an interruption loses at most the current part."""
KEPT = "embeddings_"
"""Prefix of the folder in which embeddings are kept."""


def embed(
    network: TrainedNetwork, dataset: EarDataset, *, batch_size: int | None = None, samples: np.ndarray | None = None
) -> Embeddings:
    """Return the embeddings of a dataset with one ear per sample.

    samples: the numbers of some samples, in the order of the result; None takes all.
    """
    found = network.infer(dataset, batch_size=batch_size, samples=samples)
    ears = dataset.ears_in_order
    ears = ears if samples is None else ears.iloc[samples]
    return Embeddings(embedding=found.embedding, **{name: ears[name].to_numpy() for name in (
        "exam_id", "side", "patient_key", "label_code")})


def training_embeddings(
    network: TrainedNetwork, data: DataConfig, folder: Path, *, batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Embeddings, EarSet]:
    """Return the embeddings of all labelled training ears, whatever their code, and the set of these ears.

    They are kept in `folder`, and computed again when network or data change. Each part is written when it is done, so that
    interrupted work continues where it stopped. progress: called with the number of ears done and their total. Raises UserError
    if the split has no training ears.
    """
    train = network.open_sets(replace(data, limit=None, sample="ear"), ("train",), None).get("train")
    if train is None:
        raise UserError(f"{data.splits_root} --pct {data.pct}: has no labelled training ears")
    names = train.ears_in_order[["exam_id", "side", "patient_key", "label_code"]].astype(str).to_numpy().tolist()
    key = hashlib.sha256(json.dumps([network.fingerprint(), train.hashes, names]).encode()).hexdigest()[:16]
    own = folder / f"{KEPT}{key}"
    for other in folder.glob(f"{KEPT}*"):
        if other != own and re.fullmatch(f"{KEPT}[0-9a-f]{{16}}", other.name):
            _remove_kept(other)                                  # of another network, or of other data
    parts = []
    for start in range(0, len(names), PART_EARS):
        samples = np.arange(start, min(start + PART_EARS, len(names)))
        parts.append(_part(network, train.dataset, samples, own / f"{start:07d}.npz", batch_size))
        progress(int(samples[-1]) + 1, len(names))
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return Embeddings(**joined), train


def _remove_kept(folder: Path) -> None:
    """Remove the parts in a folder of embeddings, and the folder if nothing else is in it."""
    for part in folder.glob("[0-9]" * 7 + ".npz"):
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _part(network: TrainedNetwork, dataset: EarDataset, samples: np.ndarray, path: Path, batch_size: int | None) -> Embeddings:
    """The embeddings of some samples: read if they were kept, else computed and kept."""
    if path.is_file():
        try:
            found = Embeddings.read(path)
            if len(found) == len(samples):
                return found
        except UserError:                                        # damaged: computed again
            pass
    found = embed(network, dataset, batch_size=batch_size, samples=samples)
    found.write(path)
    return found
