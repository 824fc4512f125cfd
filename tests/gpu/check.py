"""Run all checks that need a GPU, in one command:

    python tests/gpu/check.py                       all checks, then a table
    python tests/gpu/check.py --only attention
    python tests/gpu/check.py --device cpu --small  test the checks themselves

It checks each attention backend that the device supports, decoding, the loss and the network
against float64 or float32; updates of the default `25m` on random tokens, with tokens/s, MFU and
memory; the memory limits of smaller cards; hidden synchronizations; float16; running out of memory;
resuming; the commands. Exit code 1 if a check fails. It needs no data, no hub, no wandb. Copy the
table into docs/RESULTS.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import traceback

import torch

import numerics
import updates
from lab import Lab, SkippedError
from nano_hindi.attention_backends import LOADERS
from nano_hindi.common import compute_dtype
from nano_hindi.config import get_config, get_train_config
from nano_hindi.errors import UserError


def make_lab(device: torch.device, small: bool) -> Lab:
    model, train = get_config("25m"), get_train_config("25m")
    if small:
        model = dataclasses.replace(model, vocab_size=512, sequence_len=64, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
        train = dataclasses.replace(train, sequence_len=64, batch_size=4, gradient_accumulation_steps=2, total_tokens=64 * 8 * 50, warmup_steps=4)
    return Lab(device, compute_dtype(device), model, train, full=not small)


def checks(lab: Lab, n_updates: int) -> dict[str, tuple]:
    return {
        **{f"attention {name}": (numerics.attention, name) for name in LOADERS},
        **{f"decoding {name}": (numerics.decoding, name) for name in LOADERS},
        **{f"loss {name}".strip(): (numerics.loss, name) for name in numerics.LOSSES},
        "network": (numerics.network,),
        "n-grams": (numerics.ngrams,),
        "updates": (updates.full_updates, n_updates),
        "8 GB, auto": (updates.memory_ceiling, 8, "auto"),
        "16 GB, 64 at once": (updates.memory_ceiling, 16, lab.train.batch_size),
        "hidden waits": (updates.no_hidden_waits,),
        "float16": (updates.half_precision,),
        "memory ends": (updates.memory_ends,),
        "resume": (updates.resume,),
        "generation": (updates.decoding_speed,),
        "commands": (updates.commands,),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[""], help="the checks whose names begin with one of these")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("tests/gpu: skipped, it needs a CUDA device")
        return 0
    device = torch.device(args.device, 0) if args.device == "cuda" else torch.device(args.device)
    lab, rows = make_lab(device, args.small), []
    chosen = {name: check for name, check in checks(lab, args.updates).items() if name.startswith(tuple(args.only))}
    if not chosen:
        parser.error(f"no check begins with {' or '.join(args.only)}")
    for name, (check, *arguments) in chosen.items():
        start = time.perf_counter()
        try:
            verdict, words = "ok", check(lab, *arguments)
        except SkippedError as reason:
            verdict, words = "skipped", str(reason)
        except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
            is_missing = isinstance(error, UserError) and name.split()[-1] in {*LOADERS, "B", "fp8"} - {"sdpa"}
            verdict, words = "not here" if is_missing else "FAILED", f"{type(error).__name__}: {error}"
            if not is_missing:
                traceback.print_exc()
        rows.append((name, verdict, f"{time.perf_counter() - start:.0f} s", " ".join(words.split())[:160]))
        print(*rows[-1], sep="  ", flush=True)
    print(f"\n{torch.cuda.get_device_name(0) if device.type == 'cuda' else device}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    for name, verdict, seconds, words in rows:
        print(f"| {name:17} | {verdict:8} | {seconds:>5} | {words} |")
    return 1 if any(verdict == "FAILED" for _, verdict, _, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
