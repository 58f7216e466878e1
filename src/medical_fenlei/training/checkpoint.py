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
from medical_fenlei.json_files import Opaque, checked
from medical_fenlei.log import LOG
from medical_fenlei.models.weights import first_not_finite
from medical_fenlei.training.checkpoint_file import FOOTER, MARK, check_file, check_kind
from medical_fenlei.training.training_set import TrainingSetSummary


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
    trained_on: TrainingSetSummary | None = None
    """The training set in figures; None in checkpoints of earlier versions."""

    state: dict[str, Any] | None = None
    """State of optimizer, scaler and early stopping; only in `last.pt`."""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint with its checksum, atomically."""
    content = {**vars(checkpoint), "config": settings.to_json(checkpoint.config)}
    if (known := content.get("trained_on")) is not None:
        content["trained_on"] = known.to_dict()
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with buffer.getbuffer() as body:
        body[-2:] = struct.pack("<H", FOOTER)                    # a ZIP archive ends with the length of its comment
        digest = hashlib.sha256(body).hexdigest().encode()
        with atomic(path) as file:
            file.write(body)
            file.write(MARK + digest)


def read_checkpoint(path: Path, *, kind: str | None) -> Checkpoint:
    """Read a checkpoint of this kind, or of any for None, onto the host.

    Raises UserError: no file, no checkpoint, damaged, edited, of another kind, or with weights that are not finite.
    """
    check_file(path)
    content = path.read_bytes()
    body, footer = content[:-FOOTER], content[-FOOTER:]
    if hashlib.sha256(body).hexdigest().encode() != footer[len(MARK):]:
        raise UserError(f"--checkpoint {path}: is damaged: its content does not match its checksum; copy it again")
    try:
        plain = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the type depends on what is wrong
        raise UserError(f"--checkpoint {path}: cannot be read by torch ({type(error).__name__}); use "
                        "another checkpoint") from None
    return _checked(plain, path, kind)


def _checked(plain: Any, path: Path, kind: str | None) -> Checkpoint:
    """The content of a file of torch as a checkpoint. Raises UserError, naming the field that is wrong."""
    fields: dict[str, Any] = {}
    for name, annotation in _FIELDS.items():
        if isinstance(plain, dict) and name in plain:
            fields[name], fault = checked(plain[name], annotation, name=name, nan=name == "value")
        elif name == "trained_on":
            continue                                             # of an earlier version
        else:
            fault = f"field {name} is missing"
        if fault:
            raise UserError(f"--checkpoint {path}: {fault}; it is not as training wrote it: use another checkpoint")
    if unknown := plain.keys() - _FIELDS.keys():
        raise UserError(f"--checkpoint {path}: field {min(map(str, unknown))} is unknown; it is not as this version writes it")
    weights = fields["weights"]
    if wrong := [name for name, tensor in weights.items() if not (isinstance(name, str) and isinstance(tensor, torch.Tensor))]:
        raise UserError(f"--checkpoint {path}: field weights.{wrong[0]}: got {type(weights[wrong[0]]).__name__}, expected a "
                        "tensor; use another checkpoint")
    check_kind(path, fields["kind"], kind)
    if broken := first_not_finite(weights):
        raise UserError(f"--checkpoint {path}: its weights are not finite ({broken}), so that it has no answer for any ear; "
                        "use another checkpoint, or train again with a lower --lr or --precision fp32")
    config = settings.from_json(RunConfig, fields["config"], where=f"--checkpoint {path}, config")
    return Checkpoint(**{**fields, "config": config})


_FIELDS: dict[str, Any] = {
    "kind": str, "config": dict, "weights": dict, "epoch": int, "metric": str, "value": float,
    "trained_on": TrainingSetSummary | None, "state": Opaque}
"""What each field of a checkpoint holds."""


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
