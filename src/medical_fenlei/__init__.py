"""Per-ear diagnosis of the middle ear from temporal-bone CT."""
import sys

__version__ = "0.1.0"

ENVIRONMENT_HINT = "activate the environment with `source .venv/bin/activate`, or make it with `source tools/env.sh`"
"""What to do about a Python that is too old, or that lacks a library."""

if sys.version_info < (3, 11):  # noqa: UP036 (scripts are started with whatever `python` is, without an install)
    print(f"medical_fenlei needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}; {ENVIRONMENT_HINT}",
          file=sys.stderr)
    raise SystemExit(2)
