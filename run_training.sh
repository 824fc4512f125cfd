#!/usr/bin/env bash
# Run everything: environment, data, training, samples. Existing outputs are kept, and a stopped run is resumed.
usage="usage: bash run_training.sh [sample] [flags of train.py ...]
  (nothing)   Sangraha from the Hugging Face hub, the 25m model
  sample      a small corpus of stories made here, the tiny model: minutes, no hub
Flags are passed to train.py, such as --total_tokens 100000000, --checkpoint_dir DIR, --dry_run; paths are relative to the folder of this file.
With --data_dir DIR, nothing is prepared: DIR holds the output of data/preprocess.py. So do the folders of --data_dir A=0.7 B=0.3.
Start it again to resume a stopped run. Exit codes: those of setup_env.sh, then of the script that failed; 130 after Ctrl-C."
case "${1--}" in
    -h | --help)
        echo "$usage"
        exit 0
        ;;
    sample | -*) ;;
    *)
        echo "error: unknown word \"$1\": write sample or flags of train.py; --help explains them" >&2
        exit 2
        ;;
esac
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

if [ -z "$no_samples$own_data" ] && [ ! -f "$data/preprocess_meta.txt" ]; then # written last: without it, the data is not finished
    # a wrong flag must not be found only after the download and the tokenizing
    "$python" train.py ${train[@]+"${train[@]}"} "$@" --dry_run >/dev/null || exit $?
    if [ ! -f "$raw/hindi_corpus.txt" ]; then # it gets this name when it is complete
        echo "training: downloading or writing the text to $raw"
        "$python" data/download.py ${download[@]+"${download[@]}"} || exit $?
    fi
    echo "training: tokenizing the text into $data"
    "$python" data/preprocess.py ${preprocess[@]+"${preprocess[@]}"} || exit $?
fi

rc=0
"$python" train.py ${train[@]+"${train[@]}"} --resume auto "$@" || rc=$?
if [ "$rc" = 130 ]; then echo "training: stopped; start me again to continue"; fi
if [ "$rc" != 0 ] || [ -n "$no_samples" ]; then exit "$rc"; fi
echo "training: samples of $checkpoints"
"$python" generate.py --checkpoint "$checkpoints"
