#!/usr/bin/env bash
# Set up ./venv: the packages of requirements.txt, with the PyTorch build for this machine. Prints nothing if it is ready.
# This makes the environment; setup_env.py fills it.
usage="usage: bash setup_env.sh
  PYTHON=python3.12            the Python to start from (3.10 to 3.14)
  VENV=DIR                     a folder other than venv
  TORCH_INDEX_URL=URL          the pip index to take PyTorch from, whatever the GPU; to change the build later, delete venv first
Exit codes: 0 ready, 1 no suitable Python, 3 no virtual environment, 4 pip failed, 5 the packages do not import, 130 Ctrl-C."
if [ $# -gt 0 ]; then # --help, or what it would ignore
    echo "$usage"
    case "$1" in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # it was started with sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null
export PYTHONUTF8=1 PYTHONNOUSERSITE=1 PIP_USER=0
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX # set by other programs, they would make pip install elsewhere
trap 'echo "setup: stopped; run this again to continue" >&2; exit 130' INT

fail() { # code, message
    echo "error: $2" >&2
    exit "$1"
}

# Set `base` to a Python of 3.10 to 3.14: $PYTHON, or the first suitable one.
find_python() {
    local candidate answer wrong=
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.{14..10} python; fi
    for candidate; do
        answer=$("$candidate" --version 2>&1) || continue
        if [[ $answer =~ ^Python\ 3\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 10 && BASH_REMATCH[1] <= 14)); then
            base=$candidate
            return 0
        fi
        wrong=${wrong:-$answer}
    done
    if [[ $wrong =~ ^Python\ 3\.([0-9]+) ]] && ((BASH_REMATCH[1] > 14)); then
        fail 1 "$wrong is too new for PyTorch: use Python 3.10 to 3.14: PYTHON=/path/to/python3.14 bash setup_env.sh"
    fi
    [ -z "$wrong" ] || fail 1 "$wrong is too old: install Python 3.10 to 3.14, or name one: PYTHON=/path/to/python3 bash setup_env.sh"
    [ -z "${PYTHON:-}" ] || fail 1 "PYTHON=$PYTHON does not start a Python"
    fail 1 "there is no Python here: install Python 3.10 to 3.14 (Debian, Ubuntu: apt install python3 python3-venv), then run this again"
}

venv="${VENV:-venv}"
python="$venv/bin/python"
# fails after an upgrade of the underlying Python
if ! "$python" -c 'import pip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' >/dev/null 2>&1; then
    made="$venv/.nano_hindi" # only what this script made is replaced: .requirements may be in an environment of the user's own
    if [ -n "${VENV:-}" ] && [ ! -e "$made" ] && [ -n "$(ls -A -- "$venv" 2>/dev/null)" ]; then
        fail 3 "VENV=$venv has files but no Python 3.10 to 3.14 with pip, and a new environment would replace them: name a new folder, or delete this one"
    fi
    find_python
    "$base" -c 'import ensurepip' >/dev/null 2>&1 || fail 3 "this Python cannot make virtual environments: apt install python3-venv, then run this again"
    echo "setup: making $venv with $base (once)"
    answer=$("$base" -m venv --clear "$venv" 2>&1) || fail 3 "no virtual environment in $venv: ${answer##*$'\n'}"
    : >"$made"
fi
exec "$python" setup_env.py
