"""Cases to look up beside an ear: the training ears that the network finds most alike, and how often they share its label."""
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medical_fenlei import tables
from medical_fenlei.config import BONE, DataConfig
from medical_fenlei.data.augment import window
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import Sources, find_ears, prepare_missing
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.bootstrap import Intervals, patient_intervals
from medical_fenlei.trained.network import Trained
from medical_fenlei.training.predict import Inferred, infer, look
from medical_fenlei.vocabulary import UNLABELLED

PART = 256
"""Ears whose embeddings are written together: so much is lost where the work is stopped."""
KEPT = "embeddings_"
"""Begins the name of the folder in which they are kept."""


def embed(
    trained: Trained, dataset: EarDataset, *, batch_size: int | None = None, samples: np.ndarray | None = None
) -> Embeddings:
    """Of every ear of a dataset with one ear a sample, or of these samples (their numbers), in that order."""
    found = Inferred.joined([infer(
        trained.model, dataset, augment=trained.config.augment, arithmetic=trained.arithmetic, samples=samples,
        batch_size=batch_size or trained.config.training.batch_size)])
    ears = dataset.ears_in_order
    ears = ears if samples is None else ears.iloc[samples]
    return Embeddings(embedding=found.embedding, **{name: ears[name].to_numpy() for name in (
        "exam_id", "side", "patient_key", "label_code")})


def training_embeddings(
    trained: Trained, data: DataConfig, folder: Path, *, batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Embeddings, Sources]:
    """Of every labelled training ear, whatever its code; kept in `folder`, and computed anew when network or data change.

    Each PART is written as it is done, so that work that was stopped goes on where it was. progress: called with the ears done
    and how many there are. Raises UserError where the split has no training ears.
    """
    store = trained.store(data)
    sources = find_ears(replace(data, limit=None, sample="ear"), store, None, ("train",))
    dataset = sources.dataset(store, "train", sources.placement(store, trained.arithmetic.device))
    if dataset is None:
        raise UserError(f"{data.splits_root} --pct {data.pct}: has no labelled training ears")
    names = dataset.ears_in_order[["exam_id", "side", "patient_key", "label_code"]].astype(str).to_numpy().tolist()
    key = hashlib.sha256(json.dumps([trained.fingerprint(), sources.hashes, names]).encode()).hexdigest()[:16]
    own = folder / f"{KEPT}{key}"
    for other in folder.glob(f"{KEPT}*"):
        if other != own:
            shutil.rmtree(other)                                 # of another network, or of other data
    parts = []
    for start in range(0, len(names), PART):
        samples = np.arange(start, min(start + PART, len(names)))
        parts.append(_part(trained, dataset, samples, own / f"{start:07d}.npz", batch_size))
        progress(int(samples[-1]) + 1, len(names))
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return Embeddings(**joined), sources


def _part(trained: Trained, dataset: EarDataset, samples: np.ndarray, path: Path, batch_size: int | None) -> Embeddings:
    if path.is_file():
        try:
            found = Embeddings.read(path)
            if len(found) == len(samples):
                return found
        except UserError:                                        # damaged: made anew
            pass
    found = embed(trained, dataset, batch_size=batch_size, samples=samples)
    found.write(path)
    return found


@torch.inference_mode()
def most_attended(trained: Trained, volume: np.ndarray) -> tuple[int, np.ndarray]:
    """The slice k of int16 HU (K, H, W) that the network attends to most, the middle one where it has no attention; and the
    slice in the network's bone window, float32 (H, W), 0 to 1."""
    config, hu = trained.config.augment, torch.from_numpy(volume)[None].to(trained.arithmetic.device)
    with trained.arithmetic.autocast():
        attention = look(trained.model, hu, config).attention
    k = len(volume) // 2 if attention is None else int(attention[0].argmax())
    grey: np.ndarray = window(hu[:, k:k + 1], replace(config, windows=(BONE,), slice_context=0))[0, 0, 0].cpu().numpy()
    return k, (grey + 1) / 2


def agreement(near: pd.DataFrame, train: Embeddings, asked: Embeddings, *, draws: int = 2000, seed: int = 0
              ) -> tuple[pd.DataFrame, Intervals]:
    """How often neighbours have the label of the ear that was asked about. near: `tables.NEIGHBORS` of it.

    Of each labelled ear `share` of its neighbours, `first` whether the nearest one, and `chance` the share of all training ears
    of other patients; then the means over ears and `ratio` = share / chance, with 95 % intervals by patient.
    """
    rows = []
    for n in np.flatnonzero(asked.label_code != UNLABELLED):
        own = near[(near.exam_id == asked.exam_id[n]) & (near.side == asked.side[n])].sort_values("rank")
        if own.empty:
            continue
        alike = (own.neighbour_label_code == asked.label_code[n]).to_numpy()
        others = train.label_code[train.patient_key != asked.patient_key[n]]
        rows.append({"exam_id": asked.exam_id[n], "side": asked.side[n], "patient_key": asked.patient_key[n],
                     "label_code": int(asked.label_code[n]), "share": alike.mean(), "first": float(alike[0]),
                     "chance": (others == asked.label_code[n]).mean()})
    table = pd.DataFrame(rows, columns=["exam_id", "side", "patient_key", "label_code", "share", "first", "chance"])
    numbers = table[["share", "first", "chance"]].to_numpy(float)

    def measures(weight: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            share, first, chance = (weight @ numbers / weight.sum(1, keepdims=True)).T
            return {"share": share, "first": first, "chance": chance, "ratio": share / chance}

    return table, patient_intervals(measures, table.patient_key.to_numpy(), numbers, seed=seed, draws=draws,
                                    unbounded=("ratio",), ratios=("ratio",))


def ears_to_ask(trained: Trained, data: DataConfig, *, split: str | None, exam_id: str | None, side: str | None
                ) -> tuple[EarDataset, pd.DataFrame]:
    """The labelled ears of a set, or the one ear that is named, labelled or not; and `tables.REJECTS`.

    Raises UserError where there is none, or where the one ear cannot be used.
    """
    store, data = trained.store(data), replace(data, sample="ear")
    if split is not None:
        sources = find_ears(data, store, None, (split,))
        dataset = sources.dataset(store, split, sources.placement(store, trained.arithmetic.device))
        if dataset is None:
            raise UserError(f"--split {split}: {data.splits_root} --pct {data.pct} has no labelled ears there")
        return dataset, sources.rejects
    manifest = tables.MANIFEST.read(data.manifest_csv)
    ear = manifest[(manifest.exam_id == exam_id) & (manifest.side == side)]
    if ear.empty:
        raise UserError(f"--exam-id {exam_id}: {data.manifest_csv} has no {side} ear of that exam")
    rejects = prepare_missing(data, store, ear)
    if len(rejects):
        raise UserError(f"--exam-id {exam_id}: {rejects.reason.iloc[0]}: {rejects.detail.iloc[0]}")
    return EarDataset(store, ear), rejects
