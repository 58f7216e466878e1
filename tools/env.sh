# The environment of the demo, the tests and everyday work:   source tools/env.sh
#
# Makes a virtual environment once (.venv, or the folder that MF_VENV names) with requirements*.txt at the versions of
# requirements.lock and this package, editable; afterwards `source .venv/bin/activate` is enough. Sets `python` and PYTHONPATH to
# this checkout, so that several checkouts can share one environment. MF_PYTHON names an interpreter (3.11 or newer);
# MF_UNLOCKED=1 installs the newest releases within the ranges instead. An interrupted installation is finished by the next call.
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
    if ! "$MF_VENV/bin/python" -m pip --version >/dev/null 2>&1; then                # none, or one whose making was interrupted
        local python
        python=$(mf_find_python) || return 1
        if [ -e "$MF_VENV" ] && [ ! -e "$MF_VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$MF_VENV")" ]; then
            echo "env.sh: MF_VENV $MF_VENV: holds files, but no environment; name another folder" >&2
            return 1
        fi
        echo "making an environment in $MF_VENV" >&2
        "$python" -m venv "$MF_VENV" || return 1
    fi
    echo "installing the requirements (PyTorch with its libraries is some 5 GB)" >&2
    "$MF_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${constraints[@]}" \
        -r "$mf_root/requirements.txt" -r "$mf_root/requirements-cluster.txt" -r "$mf_root/requirements-dev.txt" || return 1
    rm -f "$MF_VENV"/.installed-*
    touch "$stamp"
}

# An editable install of another checkout stays as long as that checkout exists: PYTHONPATH comes first here.
mf_install_package() {
    local link
    for link in "$MF_VENV"/lib/python3*/site-packages/__editable__.medical_fenlei-*.pth; do
        [ ! -d "$(cat "$link" 2>/dev/null)/medical_fenlei" ] || return 0
    done
    "$MF_VENV/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-deps -e "$mf_root" ||
        echo "env.sh: the package could not be installed (offline?); this shell finds it through PYTHONPATH" >&2
}

mf_install && mf_install_package || { echo "env.sh: the environment is not complete; source it again to go on" >&2; return 1 2>/dev/null || exit 1; }
export MF_VENV PATH="$MF_VENV/bin:$PATH" PYTHONPATH="$mf_root/src${PYTHONPATH:+:$PYTHONPATH}"
