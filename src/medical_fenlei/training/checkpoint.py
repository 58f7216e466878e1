"""Checkpoints: weights with the whole configuration, and a checksum over the file, since torch does not notice a flipped bit.

The file is an ordinary one of torch; the checksum is the comment at the end of its ZIP archive.
"""
import hashlib
import io
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medical_fenlei import settings
from medical_fenlei.config import DUAL, EAR2D, RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic
from medical_fenlei.log import LOG

MARK = b"medical_fenlei checkpoint, sha256 "
FOOTER = len(MARK) + 64
READ_BY = {EAR2D: "predict_ear2d", DUAL: "predict_dual"}
"""Which command predicts with a checkpoint of this kind."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """No path of a patient's file, no patient key: settings, numbers and tensors."""

    kind: str
    """Which family of networks: `RunConfig.kind`."""

    config: RunConfig
    weights: dict[str, torch.Tensor]
    epoch: int
    """The epoch after which the weights were taken; the first is 1."""

    metric: str
    """What `value` is, on the tune set; "" where there was none."""

    value: float
    trained_on: dict[str, Any] | None = None
    """`TrainedOn.plain()` of the training set; None in checkpoints of an earlier version."""

    state: dict[str, Any] | None = None
    """Of optimizer, scaler and early stopping, in `last.pt`."""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    content = {**vars(checkpoint), "config": settings.to_json(checkpoint.config)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with buffer.getbuffer() as body:
        body[-2:] = struct.pack("<H", FOOTER)                    # a ZIP archive ends with the length of its comment
        digest = hashlib.sha256(body).hexdigest().encode()
        with atomic(path) as file:
            file.write(body)
            file.write(MARK + digest)


def step_back(path: Path, keep: int) -> None:
    """Before a new `last.pt`: keep the present one as `last-1.pt`, that one as `last-2.pt`, …, `keep` in all.

    `path` itself stays until it is replaced.
    """
    names = [path, *(path.with_stem(f"{path.stem}-{n}") for n in range(1, keep))]
    for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
        if newer != path and newer.exists():
            os.replace(newer, older)
        elif newer.exists():
            beside = older.with_name(f".{older.name}.part")
            beside.unlink(missing_ok=True)
            try:
                os.link(newer, beside)
            except OSError:                                      # a file system without links
                shutil.copyfile(newer, beside)
            os.replace(beside, older)


def read_last(path: Path, keep: int, *, kind: str) -> Checkpoint | None:
    """The newest of them that is sound; None if there is none at all. Raises UserError if all that there are are damaged."""
    failure: UserError | None = None
    for candidate in [path, *(path.with_stem(f"{path.stem}-{n}") for n in range(1, keep))]:
        if not candidate.is_file():
            continue
        try:
            found = read_checkpoint(candidate, kind=kind)
        except UserError as error:
            LOG.warning("%s; looking for the one before it", error)
            failure = error
            continue
        if candidate != path:                                    # or the next epoch would keep the damaged one in its place
            os.replace(candidate, path)
        return found
    if failure:
        raise failure
    return None


def read_checkpoint(path: Path, *, kind: str) -> Checkpoint:
    """The checkpoint of this kind, on the host. Raises UserError: no file, not a checkpoint, damaged, or of another kind."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--checkpoint {path}: {error.strerror}") from None
    body, footer = content[:-FOOTER], content[-FOOTER:]
    if not footer.startswith(MARK):
        raise UserError(f"--checkpoint {path}: is not a checkpoint of this program, or was cut short")
    if hashlib.sha256(body).hexdigest().encode() != footer[len(MARK):]:
        raise UserError(f"--checkpoint {path}: is damaged: its content does not match its checksum; copy it again")
    plain = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if plain["kind"] != kind:
        raise UserError(f"--checkpoint {path}: holds a network of kind {plain['kind']}, expected {kind}; "
                        f"{READ_BY.get(plain['kind'], 'nothing here')} reads it")
    return Checkpoint(**{**plain, "config": settings.from_json(RunConfig, plain["config"], where=f"--checkpoint {path}")})
