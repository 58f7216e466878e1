#!/usr/bin/env bash
# Style, types and tests:   bash tools/test.sh [arguments of pytest]
# Makes the environment first (see env.sh); needs only Python 3.11 or newer. Ends with a list of the checks that were left out.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/env.sh
ruff check
mypy
export OMP_NUM_THREADS=1                                        # the tests run side by side instead
python -m pytest -n "${MF_TEST_WORKERS:-2}" --dist loadfile -q "$@"
