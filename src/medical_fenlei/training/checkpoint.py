"""Checkpoints: the weights with the whole configuration. A checksum guards the file: torch does not notice a flipped bit."""
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
from medical_fenlei.config import RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic
from medical_fenlei.log import LOG
from medical_fenlei.models.weights import first_not_finite
from medical_fenlei.training.checkpoint_file import FOOTER, MARK, check_file, check_kind


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint: settings, numbers and tensors, but no path of a patient's file and no patient key."""

    kind: str
    """The route of the run, `RunConfig.kind`."""

    config: RunConfig
    weights: dict[str, torch.Tensor]
    epoch: int
    """The last completed epoch; the first is 1."""

    metric: str
    """The name of `value`, a measure of the tune set (`EpochChoice.by`); "" if the last epoch is kept."""

    value: float
    trained_on: dict[str, Any] | None = None
    """The training set in figures, `TrainingSetSummary.to_dict()`; None in checkpoints of earlier versions."""

    state: dict[str, Any] | None = None
    """State of optimizer, scaler and early stopping; only in `last.pt`."""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint with its checksum, atomically."""
    content = {**vars(checkpoint), "config": settings.to_json(checkpoint.config)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with buffer.getbuffer() as body:
        body[-2:] = struct.pack("<H", FOOTER)                    # a ZIP archive ends with the length of its comment
        digest = hashlib.sha256(body).hexdigest().encode()
        with atomic(path) as file:
            file.write(body)
            file.write(MARK + digest)


def read_checkpoint(path: Path, *, kind: str) -> Checkpoint:
    """Read a checkpoint of this kind onto the host.

    Raises UserError: no file, no checkpoint, damaged, of another kind, or with weights that are not finite.
    """
    check_file(path)
    content = path.read_bytes()
    body, footer = content[:-FOOTER], content[-FOOTER:]
    if hashlib.sha256(body).hexdigest().encode() != footer[len(MARK):]:
        raise UserError(f"--checkpoint {path}: is damaged: its content does not match its checksum; copy it again")
    plain = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    check_kind(path, plain["kind"], kind)
    if name := first_not_finite(plain["weights"]):
        raise UserError(f"--checkpoint {path}: its weights are not finite ({name}), so that it has no answer for any ear; use "
                        "another checkpoint, or train again with a lower --lr or --precision fp32")
    return Checkpoint(**{**plain, "config": settings.from_json(RunConfig, plain["config"], where=f"--checkpoint {path}")})


def rotate_checkpoints(path: Path, keep: int) -> None:
    """Make room for a new `last.pt`: keep the present one as `last-1.pt`, that one as `last-2.pt`, …, `keep` files in all.

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
            except OSError:                                      # a file system without hard links
                shutil.copyfile(newer, beside)
            os.replace(beside, older)


def read_newest_checkpoint(path: Path, keep: int, *, kind: str) -> Checkpoint | None:
    """Read `last.pt`, or the newest of the files behind it that is not damaged; None if there is none.

    Raises UserError if all of them are damaged.
    """
    failure: UserError | None = None
    for candidate in [path, *(path.with_stem(f"{path.stem}-{n}") for n in range(1, keep))]:
        if not candidate.is_file():
            continue
        try:
            found = read_checkpoint(candidate, kind=kind)
        except UserError as error:
            LOG.warning("%s; trying the checkpoint before it", error)
            failure = error
            continue
        if candidate != path:                                    # or the next rotation would keep the damaged file
            os.replace(candidate, path)
        return found
    if failure:
        raise failure
    return None
