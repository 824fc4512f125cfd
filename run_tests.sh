#!/usr/bin/env bash
# Make the test environment if it is not there, then run everything: lint, format check, tests.
#   bash run_tests.sh                          all of it
#   bash run_tests.sh tests/test_muon.py -k x  a part (arguments go to pytest)
# PYTHON=... names the Python to start from; an active virtual environment is not touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv="${VENV:-venv}"
python="$venv/bin/python"
stamp="$venv/.requirements"
if ! cmp -s requirements.txt "$stamp"; then
    echo "run_tests: setting up $venv (once)"
    [ -x "$python" ] || "${PYTHON:-python3}" -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$stamp"
fi

export PYTHONUTF8=1 HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-0}" WANDB_MODE=disabled
if [ $# -eq 0 ]; then
    "$python" -m ruff check .
    "$python" -m ruff format --check .
fi
exec timeout --kill-after=30 1150 "$python" -m pytest "$@"
