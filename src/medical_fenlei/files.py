"""Atomic files: written beside the target, flushed, then renamed, so that a file is complete or absent."""
import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file object whose content appears at `path`, complete, when the block ends without an error.

    Text is UTF-8; undecodable bytes of file names survive (surrogateescape). An OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        with open(beside, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):                           # name the requested file, not the temporary one
            error.filename, error.filename2 = str(path), None
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, as UTF-8."""
    with atomic(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the given order; NaN and infinity become null."""
    with atomic(path, "w") as file:
        json.dump(_finite(value), file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises OSError or ValueError."""
    return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_inside(path: str) -> bool:
    """Whether a relative path stays below its base folder, by the rules of Linux and of Windows."""
    parts = path.replace("\\", "/").split("/")
    return not (parts[0] == "" and len(parts) > 1) and ".." not in parts and not re.match("[A-Za-z]:", parts[0])
