#!/usr/bin/env bash
# Create the test environment if needed, then run everything: lint, format check, import contracts, types, tests.
usage="usage: bash run_tests.sh [--fast] [arguments of pytest ...]
  (nothing)                    everything
  --fast                       everything except the tests marked slow
  tests/test_muon.py -k x      one test
PYTHON=... names the Python to start from, VENV=... the environment; an active virtual environment is not touched."
case "${1:-}" in -h | --help)
    echo "$usage"
    exit 0
    ;;
esac
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # it was started with sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null
export PYTHONUTF8=1 PIP_USER=0
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX # as in setup_env.sh

bash setup_env.sh
venv="${VENV:-venv}"
python="$venv/bin/python"
stamp="$venv/.requirements-test" # like the stamp of setup_env.sh for requirements.txt
if ! cmp -s requirements-test.txt "$stamp"; then
    echo "setup: installing the test packages"
    "$python" -m pip install -qq --disable-pip-version-check --requirement requirements-test.txt
    cp requirements-test.txt "$stamp"
fi

export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-0}" WANDB_MODE=disabled
choice=()
if [ "${1:-}" = --fast ]; then
    choice=(-m "not slow")
    shift
fi
if [ $# -eq 0 ]; then
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -c "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-logo'])" # the contracts of pyproject.toml
    "$python" -m mypy
    set -- --numprocesses auto --dist loadfile --no-loadscope-reorder # several files in parallel, as tests mostly wait (tests/conftest.py sets the number)
fi
exec "$python" -m pytest ${choice[@]+"${choice[@]}"} "$@"
