"""Compare the ONNX export with PyTorch on this CPU: tokens per second, peak memory and size, with
random weights of each preset; and bits per byte of a trained model on the validation text of its
data.

OMP_NUM_THREADS=2 python tests/benchmarks/onnx_export.py
python tests/benchmarks/onnx_export.py --checkpoint checkpoints/sample --data_dir data/sample
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import ROOT

PROMPT, TOKENS = 64, 64
THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))
sys.path.append(str(ROOT / "examples"))


def write_exports(config_name: str, folder: Path) -> None:
    """Write a model.pt and its exports, all with the tokenizer of the tests, which is not read."""
    import torch

    import standin
    from nano_hindi.config import get_config
    from nano_hindi.export import command as export
    from nano_hindi.export import conversion
    from nano_hindi.inference.loading import TrainedModel
    from nano_hindi.model import GPT
    from nano_hindi.tokenizer import load_tokenizer

    torch.manual_seed(0)
    model = GPT(get_config(config_name))
    model.init_weights()
    standin.make_tokenizer(folder / "tokenizer")
    trained = TrainedModel(model.config, model.state_dict(), 0, load_tokenizer(folder / "tokenizer"), folder, False)
    torch.save(model.state_dict(), folder / "model.pt")
    for dtype in export.DTYPES["onnx"]:
        (folder / dtype).mkdir()
        conversion.write_onnx(
            folder / dtype / "model.onnx", trained, conversion.exported_weights(trained.config, trained.state_dict, "float32"), dtype
        )
        conversion.write_json(folder / dtype / "config.json", conversion.onnx_config_json(trained, dtype))
        conversion.write_tokenizer(folder / dtype, trained.tokenizer)


def child(kind: str, config_name: str, folder: Path) -> None:
    """Print the seconds for a token and the peak memory of this process in MB."""
    if kind == "torch":
        import torch

        from nano_hindi.config import get_config
        from nano_hindi.engine import KVCache, next_logits
        from nano_hindi.model import GPT

        with torch.device("meta"):
            model = GPT(get_config(config_name))
        model.load_state_dict(torch.load(folder / "model.pt", mmap=True), assign=True)
        model.eval()
        cache = KVCache(model.config, 1, "cpu", torch.float32)

        def read(ids: list[int]) -> int:
            with torch.inference_mode():
                return int(next_logits(model, torch.tensor([ids]), cache).argmax())
    else:
        model = onnx_model(folder / kind)

        def read(ids: list[int]) -> int:
            return int(model.read(ids).argmax())

    token = read(list(range(3, 3 + PROMPT)))
    seconds = []
    for _ in range(TOKENS):
        start = time.perf_counter()
        token = read([token])
        seconds.append(time.perf_counter() - start)
    print(json.dumps([sorted(seconds)[TOKENS // 2], peak_mb()]))


def onnx_model(folder: Path):
    """Return the example's model of an exported folder, on THREADS threads."""
    import onnxruntime
    from onnx_generate import Model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return Model(folder, options)


def peak_mb() -> float:
    """Return the peak memory of this process. Linux counts that of the parent at the fork in
    ru_maxrss."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def speed(config_name: str, rounds: int) -> None:
    kinds = ("torch", "float32", "int8", "int4")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_exports(config_name, folder)
        found: dict[str, list] = {kind: [] for kind in kinds}
        for _ in range(rounds):  # interleaved: on a shared machine only ratios mean something
            for kind in kinds:
                command = [sys.executable, __file__, "--child", kind, config_name, name]
                found[kind].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        base_seconds, base_memory = map(min, zip(*found["torch"], strict=True))
        for kind in kinds:
            seconds, memory = map(min, zip(*found[kind], strict=True))
            size = (folder / ("model.pt" if kind == "torch" else f"{kind}/model.onnx")).stat().st_size / 1e6
            what = "torch, float32" if kind == "torch" else f"onnx, {kind}"
            print(
                f"{config_name:>5}  {what:<15} {1 / seconds:7.1f} tokens/s ({base_seconds / seconds:4.2f} x)  "
                f"{memory:6.0f} MB at the most ({memory / base_memory:4.2f} x)  {size:7.1f} MB on disk"
            )


def quality(checkpoint: Path, data_dir: Path) -> None:
    """Print the nats per token of each export on windows of the validation text, and its
    difference from PyTorch's."""
    import numpy as np
    import torch

    from nano_hindi.export import command as export
    from nano_hindi.inference.loading import build_model, load_for_inference

    trained = load_for_inference(checkpoint)
    length = trained.config.sequence_len
    tokens = np.fromfile(data_dir / "val.bin", np.uint32).astype(np.int64)
    windows = tokens[: len(tokens) // (length + 1) * (length + 1)].reshape(-1, length + 1)[:64]
    model = build_model(trained, torch.device("cpu"))
    with torch.inference_mode():
        expected = sum(float(model(window[None, :-1], window[None, 1:])) for window in torch.from_numpy(windows))
    expected /= len(windows)
    print(f"torch, float32    {expected:.5f} nats/token on {len(windows) * length:,} tokens")
    for dtype in export.DTYPES["onnx"]:
        with tempfile.TemporaryDirectory() as name:
            assert export.main(["--checkpoint", str(checkpoint), "--output_dir", name, "--format", "onnx", "--dtype", dtype]) == 0
            nats = []
            for window in windows:
                reader = onnx_model(Path(name))
                feed = {"input_ids": window[None, :-1], "attention_mask": np.ones((1, length), np.int64), "position_ids": np.arange(length)[None]}
                logits = torch.from_numpy(reader.session.run(["logits"], {**feed, **reader.cache})[0][0])
                nats.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(window[1:])).item())
            mean = math.fsum(nats) / len(nats)
            print(f"onnx, {dtype:<10}  {mean:.5f} nats/token ({mean / expected - 1:+.3%} bits per byte)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["22m", "25m"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child[:2], Path(args.child[2]))
    elif args.checkpoint:
        quality(args.checkpoint, args.data_dir)
    else:
        for config_name in args.configs:
            speed(config_name, args.rounds)


if __name__ == "__main__":
    main()
