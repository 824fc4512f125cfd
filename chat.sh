#!/usr/bin/env bash
# Talk to a trained model, on a page in the browser or in this terminal.
usage="usage: bash chat.sh [terminal] [FOLDER]
  (nothing)   a page in the browser
  terminal    in this terminal; a base model continues what you write
FOLDER holds a trained model; default: the first of checkpoints_chat, checkpoints and checkpoints/sample that does. Ctrl-C ends it."
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
trap 'exit 130' INT # otherwise Ctrl-C during the installation would count as a failed one

page=1
if [ "${1:-}" = terminal ]; then
    shift
    page=
fi
model=${1:-}
if [ $# -gt 1 ] || { [ $# = 1 ] && [ ! -e "$model" ]; }; then
    echo "error: \"$*\" is not the folder of a trained model; --help explains the arguments of chat.sh" >&2
    exit 2
fi
for folder in checkpoints_chat checkpoints checkpoints/sample; do
    if [ -z "$model" ] && [ -n "$(compgen -G "$folder/model.pt" || compgen -G "$folder/checkpoint_step*.pt")" ]; then model=$folder; fi
done
if [ -z "$model" ]; then
    echo "error: there is no trained model in checkpoints_chat, checkpoints or checkpoints/sample: bash run_training.sh makes one, or name its folder: bash chat.sh FOLDER" >&2
    exit 2
fi
bash setup_env.sh || exit $?
python="${VENV:-venv}/bin/python"
if [ -n "$page" ] && ! "$python" -c 'import starlette, uvicorn' >/dev/null 2>&1; then
    echo "chat: installing what the page needs (once)"
    "$python" -m pip install -qq --disable-pip-version-check --requirement requirements-serve.txt || page=
    [ -n "$page" ] || echo "notice: the packages of the page could not be installed (the reason is above): the chat is in this terminal"
fi
echo "chat: the model in $model"
if [ -z "$page" ]; then exec "$python" generate.py --checkpoint "$model" --interactive; fi
exec "$python" serve.py --checkpoint "$model" --port 0 --open
