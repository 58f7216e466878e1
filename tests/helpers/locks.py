"""Locks that another process holds."""
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOLD = """import sys
from pathlib import Path
from medical_fenlei.exclusive import exclusive
with exclusive(Path(sys.argv[1]), busy="", remedy=""):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(lock: Path) -> Iterator[int]:
    """Let another process hold a lock while the block runs, and kill it at the end; yields its id."""
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        yield other.pid
        other.kill()
