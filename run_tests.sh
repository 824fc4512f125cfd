#!/usr/bin/env bash
# Make the test environment if it is not there, then run everything: lint, format check, tests.
#   bash run_tests.sh                          all of it
#   bash run_tests.sh tests/test_muon.py -k x  a part (arguments go to pytest)
# PYTHON=... names the Python to start from, VENV=... the environment; an active virtual environment is not touched.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null

bash setup_env.sh
python="${VENV:-venv}/bin/python"

export PYTHONUTF8=1 HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-0}" WANDB_MODE=disabled
if [ $# -eq 0 ]; then
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    set -- --numprocesses auto --dist loadfile --no-loadscope-reorder # several files at once: much of a test is waiting (tests/conftest.py says how many)
fi
exec "$python" -m pytest "$@"
