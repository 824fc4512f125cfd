"""Run the repo's commands, each in a process forked from this one, which has imported the libraries
already: a command takes a tenth of the time.

Each line of stdin is a JSON list: a script or a module of the repo, then its arguments; the last
item is a path: stdout and stderr are written there, with `.out` and `.err` added. The answer, on
stdout, is a line with the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)
sys.path.append(str(Path(__file__).parent))

from short_ends import shorten_ends

USED = (
    "data.download", "data.preprocess", "filelock", "matplotlib.backends.backend_agg", "nano_hindi.corpus.shards", "nano_hindi.export.model_card",
    "nano_hindi.inference.loading", "nano_hindi.tokenizer.training", "nano_hindi.training.loop",
    "nano_hindi.training.setup", "pyarrow.parquet", "safetensors.torch", "tokenizers", "torch._dynamo",
)  # fmt: skip


def serve() -> None:
    """Answer until stdin ends."""
    for name in USED:
        importlib.import_module(name)
    from matplotlib.figure import Figure
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401 - they are imported when they are named

    gc.freeze()  # a collection in a fork would touch, and so copy, all of it
    shorten_ends(draws=True)
    Figure.draw = lambda *_: None  # nearly the same calls write an empty picture
    print("ready", flush=True)
    for line in sys.stdin:
        *words, output = json.loads(line)
        child = os.fork()
        if child == 0:
            run(words, output)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(words: list[str], output: str) -> None:
    for stream, end in ((sys.stdin, None), (sys.stdout, ".out"), (sys.stderr, ".err")):
        file = os.open(output + end, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if end else os.open(os.devnull, os.O_RDONLY)
        os.dup2(file, stream.fileno())
        os.close(file)
    sys.stdin, sys.argv = open(0, closefd=False), words  # noqa: SIM115 - a new stdin: the old one has been read from
    try:
        if words[0].endswith(".py"):
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)  # the interpreter would take a second to free the libraries


if __name__ == "__main__":
    serve()
