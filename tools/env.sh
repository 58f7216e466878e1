# The environment of the demo, of the tests and of work by hand:   source tools/env.sh
#
# Makes a virtual environment once (.venv, or the folder that MF_VENV names), installs requirements*.txt at the versions of
# requirements.lock, and sets `python` and PYTHONPATH to this checkout. MF_PYTHON names an interpreter (3.11 or newer);
# MF_UNLOCKED=1 takes the newest releases within the ranges instead.
mf_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MF_VENV=${MF_VENV:-$mf_root/.venv}

mf_find_python() {
    local candidate
    for candidate in ${MF_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "env.sh: found no Python 3.11 or newer; name one with MF_PYTHON" >&2
    return 1
}

mf_install() {
    local stamp constraints=(-c "$mf_root/requirements.lock")
    [ -z "${MF_UNLOCKED:-}" ] || constraints=()
    stamp=$MF_VENV/.installed-$(cat "$mf_root"/requirements*.txt "$mf_root/requirements.lock" | cksum | cut -d' ' -f1)${MF_UNLOCKED:+-unlocked}
    [ ! -e "$stamp" ] || return 0
    if [ ! -x "$MF_VENV/bin/python" ]; then
        local python
        python=$(mf_find_python) || return 1
        echo "making an environment in $MF_VENV" >&2
        "$python" -m venv "$MF_VENV" || return 1
    fi
    echo "installing the requirements (PyTorch with its libraries is some 5 GB)" >&2
    "$MF_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${constraints[@]}" \
        -r "$mf_root/requirements.txt" -r "$mf_root/requirements-cluster.txt" -r "$mf_root/requirements-dev.txt" || return 1
    rm -f "$MF_VENV"/.installed-*
    touch "$stamp"
}

mf_install || { echo "env.sh: the environment could not be made" >&2; return 1 2>/dev/null || exit 1; }
export MF_VENV PATH="$MF_VENV/bin:$PATH" PYTHONPATH="$mf_root/src${PYTHONPATH:+:$PYTHONPATH}"
