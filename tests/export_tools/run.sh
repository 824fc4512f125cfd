#!/usr/bin/env bash
# Test the export with TRL, PEFT, lm-evaluation-harness and ONNX, in environments of its own with the newest transformers 4 and 5.
#   bash tests/export_tools/run.sh             both (about 2 GB each, for the CPU)
#   bash tests/export_tools/run.sh 5 -k sft    one of them; further arguments go to pytest
# PYTHON=... names the Python to start from. The environments stay in build/export_tools; delete them to get newer packages.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." >/dev/null

case "${1:-}" in
4 | 5) versions=("$1") && shift ;;
*) versions=(4 5) ;;
esac
export PYTHONUTF8=1 WANDB_MODE=disabled HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=
for version in "${versions[@]}"; do
    venv=build/export_tools/$version
    if ! [ -e "$venv/.ready" ]; then
        echo "setup: making $venv"
        "${PYTHON:-python3}" -m venv --clear "$venv"
        # 2.x+cpu is newer than 2.x, which brings CUDA. The upper bound keeps what is installed next from replacing it
        echo "torch<2.14" >"$venv/constraints.txt"
        pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$venv/constraints.txt")
        "${pip[@]}" --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu "torch>=2.9"
        "${pip[@]}" "transformers==$version.*" trl peft accelerate lm-eval onnx onnxscript onnxruntime regex pytest pytest-timeout
        touch "$venv/.ready"
    fi
    "$venv/bin/python" -c "
import torch, transformers, trl, peft
print('transformers', transformers.__version__, 'trl', trl.__version__, 'peft', peft.__version__, 'torch', torch.__version__, flush=True)"
    "$venv/bin/python" -m pytest tests/test_export.py tests/test_export_tools.py "$@"
done
