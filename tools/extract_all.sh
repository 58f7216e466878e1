#!/usr/bin/env bash
# The archives as they came, made into the DICOM tree:   JOBS=30 THREADS=30 tools/extract_all.sh
#
# Copies the split volumes out of the outer zips in archives/ into archives/volumes/, then extracts what is in them into
# data/medical_data_2/. Watch it with `tail -f logs/extract_all.log`; a run that was stopped goes on where it was.
# JOBS is how many processes extract (default: the processors), THREADS how many volumes are copied at a time (default: JOBS).
# Needs no environment: MF_PYTHON names an interpreter (3.11 or newer), else that of MF_VENV, of .venv or of the system is
# taken. Arguments are handed on; --help lists them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

candidates=("${MF_VENV:-$root/.venv}/bin/python" "$root/.venv/bin/python" python3 python3.14 python3.13 python3.12 python3.11)
[ -z "${MF_PYTHON:-}" ] || candidates=("$MF_PYTHON")
for python in "${candidates[@]}"; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        export PYTHONUTF8=1 PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" -P -m medical_fenlei.commands.extract_archives "$@"
    fi
done
echo "extract_all.sh: found no Python 3.11 or newer; name one with MF_PYTHON" >&2
exit 2
