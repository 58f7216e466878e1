#!/usr/bin/env bash
# triton 3.9.0 (which torch's compiler imports); Python 3.11 or newer, Linux.
#
# gc.freeze() is what Python's documentation recommends to a process that imports libraries once and forks its workers then.
# Expected: such a process ends without a word.
# Seen: with triton imported, it ends with some thirty lines "nanobind: leaked 4 instances! ... leaked 1 types! ... this is likely
# caused by a reference counting issue in the binding code", and status 0. Nothing has leaked: nanobind, with which triton is bound,
# looks at the end for objects that the garbage collector has not freed, and the collector leaves alone what is frozen.
# With gc.unfreeze() before the end nothing is printed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q triton==3.9.0
cd "$work"
cat > try.py <<'PY'
import subprocess
import sys


def said(code):
    done = subprocess.run([sys.executable, "-c", f"import gc, triton; {code}"], check=True, capture_output=True, text=True)
    print(f"{code or 'nothing else':34} status 0, {len(done.stderr.splitlines())} lines"
          + "".join(f"\n    {line}" for line in done.stderr.splitlines()[:3]))
    return done.stderr


plain, frozen, thawed = said(""), said("gc.freeze()"), said("gc.freeze(); gc.unfreeze()")
sys.exit(0 if not plain and "nanobind: leaked" in frozen and not thawed else "the behaviour has changed")
PY
"$work/venv/bin/python" try.py
