#!/usr/bin/env bash
# Run everything: environment, data, training, samples. Existing outputs are kept, and a stopped run is resumed.
usage="usage: bash run_training.sh [sample] [flags of train.py ...]
  (nothing)   Sangraha from the Hugging Face hub, the 25m model
  sample      a small corpus of generated stories, the tiny model: minutes, no hub
Flags are passed to train.py, such as --total_tokens 100000000, --checkpoint_dir DIR, --dry_run; paths are relative to the folder of this file.
With --data_dir DIR or --data_dir A=0.7 B=0.3, no data is prepared: each folder must hold the output of data/preprocess.py.
Start it again to resume a stopped run. Exit codes: those of setup_env.sh, then of the script that failed; 130 after Ctrl-C, 143 after SIGTERM."
case "${1--}" in
    -h | --help)
        echo "$usage"
        exit 0
        ;;
    sample | -*) ;;
    *)
        echo "error: unknown argument \"$1\": write sample or flags of train.py; --help explains them" >&2
        exit 2
        ;;
esac
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # it was started with sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null
export PYTHONUTF8=1
unset PYTHONHOME PYTHONPATH # as in setup_env.sh
trap : INT # Ctrl-C stops the running script, whose exit code then ends this one too

if [ "${1:-}" = sample ]; then
    shift
    data=data/sample checkpoints=checkpoints/sample raw=data/sample/raw
    download=(--source sample --output_dir "$raw")
    preprocess=(--input "$raw/hindi_corpus.txt" --output_dir "$data" --train_tokenizer 4096)
    train=(--config tiny --data_dir "$data" --checkpoint_dir "$checkpoints")
else
    data=data checkpoints=checkpoints raw=data/raw
    download=() preprocess=() train=()
fi
own_data='' no_samples='' previous=''
for word in "$@"; do
    case "$previous" in --checkpoint_dir) checkpoints=$word ;; esac
    case "$word" in
        --data_dir | --data_dir=*) own_data=1 ;; # train.py says what is missing in it
        --checkpoint_dir=*) checkpoints=${word#*=} ;;
        --dry_run | --help | -h) no_samples=1 ;;
    esac
    previous=$word
done

bash setup_env.sh || exit $?
python="${VENV:-venv}/bin/python"

# Run a Python script that SIGTERM reaches too. Bash acts on a signal only while it waits for a child in the background, and such
# a child ignores Ctrl-C and has no stdin unless it gets both back.
take_ctrl_c=(-c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])')
case "$(trap -p INT)" in *"''"*) take_ctrl_c=() ;; esac # this script ignores it too
child=''
trap 'kill -TERM "$child" 2>/dev/null || exit 143' TERM
run() {
    local rc=0
    "$python" ${take_ctrl_c[@]+"${take_ctrl_c[@]}"} "$@" <&0 &
    child=$!
    wait "$child" || rc=$?
    while kill -0 "$child" 2>/dev/null; do # a signal has ended the wait, not the child
        rc=0
        wait "$child" || rc=$?
    done
    return "$rc"
}

if [ -z "$no_samples$own_data" ] && [ ! -f "$data/preprocess_meta.txt" ]; then # written last: without it, the data is not finished
    # a wrong flag must not be found only after the download and the tokenizing
    run train.py ${train[@]+"${train[@]}"} "$@" --dry_run >/dev/null || exit $?
    if [ ! -f "$raw/hindi_corpus.txt" ]; then # it gets this name when it is complete
        echo "training: downloading or writing the text to $raw"
        run data/download.py ${download[@]+"${download[@]}"} || exit $?
    fi
    echo "training: tokenizing the text into $data"
    run data/preprocess.py ${preprocess[@]+"${preprocess[@]}"} || exit $?
fi

rc=0
run train.py ${train[@]+"${train[@]}"} --resume auto "$@" || rc=$?
if [ "$rc" = 130 ]; then echo "training: stopped; run this again to continue"; fi
if [ "$rc" != 0 ] || [ -n "$no_samples" ]; then exit "$rc"; fi
echo "training: samples of $checkpoints"
run generate.py --checkpoint "$checkpoints"
