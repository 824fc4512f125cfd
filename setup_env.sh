#!/usr/bin/env bash
# Set up ./venv: the packages of requirements.txt, with the PyTorch build for this machine. Prints nothing if it is ready.
#   bash setup_env.sh
#   PYTHON=python3.12            the Python to start from (3.10 or newer)
#   VENV=DIR                     a folder other than venv
#   TORCH_INDEX_URL=URL          the pip index to take PyTorch from, whatever the GPU; to change the build later, delete venv first
# Exit codes: 0 ready, 1 no suitable Python, 3 no virtual environment, 4 pip failed, 5 the packages do not import.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null
export PYTHONUTF8=1
trap 'echo "setup: stopped; start me again to continue" >&2; exit 130' INT

fail() { # code, message
    echo "error: $2" >&2
    exit "$1"
}

# Which PyTorch builds there are, best first: name, least NVIDIA driver, least and highest compute capability (times ten).
# Architectures: https://github.com/pytorch/pytorch/issues/178665 and /172352 (cu128 ends at torch 2.11). Drivers: each CUDA's own, except that any CUDA
# 12.x runs from 525 on: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html. The same rows stand in setup_env.bat.
builds=("cu130 580 75 999" "cu128 570 75 129" "cu126 525 50 99")
update="update the NVIDIA driver (https://www.nvidia.com/drivers), delete venv and start me again to use the GPU fully"

# Set `build` to the one for the GPUs that nvidia-smi names: the least capable counts. Notices go to stderr.
choose_build() {
    local gpus version cap row name driver=0 low=999 high=0 least from to
    build=cpu
    gpus=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null) || true
    [ -n "$gpus" ] || return 0
    while IFS=', ' read -r version cap; do
        version=${version%%.*} cap=${cap/./}
        [[ $version =~ ^[0-9]+$ && $cap =~ ^[0-9]+$ ]] || continue # old drivers do not know compute_cap and answer with a sentence
        driver=$version
        ((cap >= low)) || low=$cap
        ((cap <= high)) || high=$cap
    done <<<"$gpus"
    if ((driver == 0)); then
        echo "notice: nvidia-smi names no usable GPU: the CPU build of PyTorch; if there is a GPU, $update" >&2
        return 0
    fi
    for row in "${builds[@]}"; do
        read -r name least from to <<<"$row"
        if ((driver >= least && low >= from && low <= to)); then
            build=$name
            if ((driver < 560)); then echo "notice: driver $driver is old, $build may run with limits; $update" >&2; fi
            if ((high > to)); then echo "notice: no build fits all GPUs here: $build leaves those of compute capability ${high%?}.${high: -1} out" >&2; fi
            return 0
        fi
    done
    if ((low < 50)); then
        echo "notice: a GPU of compute capability ${low%?}.${low: -1} is too old for PyTorch: the CPU build" >&2
    else
        echo "notice: driver $driver is too old for the GPU: the CPU build of PyTorch; $update" >&2
    fi
}

# Set `base` to Python 3.10 or newer: $PYTHON, or the first suitable one.
find_python() {
    local candidate answer old=
    for candidate in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        answer=$("$candidate" --version 2>&1) || continue
        if [[ $answer =~ ^Python\ 3\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 10)); then
            base=$candidate
            return 0
        fi
        old=${old:-$answer}
    done
    [ -z "$old" ] || fail 1 "$old is too old: install Python 3.10 or newer, or name one: PYTHON=/path/to/python3 bash setup_env.sh"
    [ -z "${PYTHON:-}" ] || fail 1 "PYTHON=$PYTHON is no Python that starts"
    fail 1 "there is no Python here: install Python 3.10 or newer (Debian, Ubuntu: apt install python3 python3-venv), then start me again"
}

venv="${VENV:-venv}"
python="$venv/bin/python"
stamp="$venv/.requirements" # a copy of requirements.txt, written last: without it, the setup is not finished
works() { "$python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; } # fails after an upgrade of the underlying Python
if cmp -s requirements.txt "$stamp" && works; then exit 0; fi
rm -f "$stamp"

if ! works; then
    find_python
    echo "setup: making $venv with $base (once)"
    if ! answer=$("$base" -m venv --clear "$venv" 2>&1); then
        "$base" -c 'import ensurepip' >/dev/null 2>&1 || fail 3 "this Python cannot make virtual environments: apt install python3-venv, then start me again"
        fail 3 "no virtual environment in $venv: ${answer##*$'\n'}"
    fi
fi

build=cpu
[ -n "${TORCH_INDEX_URL:-}" ] || choose_build
if [ -n "${TORCH_INDEX_URL:-}" ]; then
    from=(--index-url "$TORCH_INDEX_URL") what="from $TORCH_INDEX_URL"
elif [ "$(uname -s)" != Linux ] || [ "$build" = cu130 ]; then
    from=() what="the default build" # on Linux PyPI has cu130
elif [ "$build" = cpu ]; then
    # 2.x+cpu is newer than 2.x; if that index is not reachable, use the default index, without retries and their warnings
    from=(--retries 0 --extra-index-url https://download.pytorch.org/whl/cpu) what="the CPU build"
else
    from=(--index-url "https://download.pytorch.org/whl/$build") what="for $build"
fi
quiet=-qq # errors only; on a terminal pip shows the progress of its downloads
[ ! -t 1 ] || quiet=
pip=("$python" -m pip install $quiet --disable-pip-version-check)
no_pip="pip could not install the packages (its reason is above): check the connection and the free disk space, then start me again"
while read -r torch _ && [[ ! $torch =~ ^torch($|[^a-z]) ]]; do :; done <requirements.txt # with its version constraint
echo "setup: installing PyTorch, $what"
"${pip[@]}" --no-deps ${from[@]+"${from[@]}"} "$torch" || fail 4 "$no_pip"
echo "setup: installing the other packages"
"${pip[@]}" --requirement requirements.txt || fail 4 "$no_pip"
"$python" -c "
import pyarrow, torch, transformers
cuda = getattr(torch, 'cuda', None)
print('setup: torch', torch.__version__, 'on', torch.cuda.get_device_name() if cuda and cuda.is_available() else 'CPU')
" || fail 5 "the packages are installed but do not work (the reason is above): delete $venv and start me again"
cp requirements.txt "$stamp"
