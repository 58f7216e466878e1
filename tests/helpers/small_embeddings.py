"""Embeddings of a few ears, drawn at random."""
import numpy as np

from medical_fenlei.embeddings.vectors import Embeddings


def draw(seed, patients, positive, *, signal=0.0, size=24, name="p"):
    """Return embeddings of two ears per patient, with an offset of the patient.

    One ear of `positive` patients has code 4, every other ear is normal. signal: distance of the codes; size: numbers per ear.
    """
    rng = np.random.default_rng(seed)
    code = np.full(2 * patients, 5)
    code[2 * rng.permutation(patients)[:positive]] = 4
    own = rng.normal(0, 0.7, (patients, size)).repeat(2, 0)
    x = own + rng.normal(0, 1, own.shape) + signal * (code == 4)[:, None] * np.linspace(1, 0, size)
    number = np.arange(2 * patients)
    return Embeddings(embedding=x.astype(np.float32), exam_id=np.array([f"{name}{i // 2:04d}" for i in number]),
                      side=np.where(number % 2, "right", "left"),
                      patient_key=np.array([f"key_{name}{i // 2}" for i in number]), label_code=code.astype(np.int8))


def with_changes(ears, **arrays):
    """Return the embeddings with other arrays."""
    return Embeddings(**{**vars(ears), **arrays})


def joined(*each):
    """Return several embeddings as one."""
    return Embeddings(**{name: np.concatenate([getattr(ears, name) for ears in each]) for name in vars(each[0])})
