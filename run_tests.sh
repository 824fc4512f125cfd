#!/usr/bin/env bash
# Make the test environment if it is not there, then run everything: lint, format check, imports, tests.
#   bash run_tests.sh                          all of it
#   bash run_tests.sh --fast                   all but the tests marked slow
#   bash run_tests.sh tests/test_muon.py -k x  a part (arguments go to pytest)
# PYTHON=... names the Python to start from, VENV=... the environment; an active virtual environment is not touched.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null

bash setup_env.sh
venv="${VENV:-venv}"
python="$venv/bin/python"
stamp="$venv/.requirements-test" # as setup_env.sh keeps one of requirements.txt
if ! cmp -s requirements-test.txt "$stamp"; then
    echo "setup: installing the packages of the tests"
    "$python" -m pip install -qq --disable-pip-version-check --requirement requirements-test.txt
    cp requirements-test.txt "$stamp"
fi

export PYTHONUTF8=1 HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-0}" WANDB_MODE=disabled
choice=()
if [ "${1:-}" = --fast ]; then
    choice=(-m "not slow")
    shift
fi
if [ $# -eq 0 ]; then
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -c "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-logo'])" # the contracts of pyproject.toml
    set -- --numprocesses auto --dist loadfile --no-loadscope-reorder # several files at once: much of a test is waiting (tests/conftest.py says how many)
fi
exec "$python" -m pytest ${choice[@]+"${choice[@]}"} "$@"
