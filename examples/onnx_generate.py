"""Continue a Hindi text, or answer a question, with an ONNX export and without PyTorch.

It needs onnxruntime, tokenizers and numpy:

python -m nano_hindi.export --checkpoint checkpoints --output_dir my_onnx --format onnx
python examples/onnx_generate.py my_onnx "एक समय की बात है"
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

CHUNK = 64  # tokens of the prompt that are read at once: bounds the memory for their logits


class Model:
    """An exported model, and a cache of the keys and values of the tokens that it has read."""

    def __init__(self, folder: Path, options: onnxruntime.SessionOptions | None = None):
        try:
            self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
            if (self.config["model_type"], self.config["vocab_size"]) != ("nano_hindi", self.session.get_outputs()[0].shape[2]):
                raise ValueError("model.onnx does not belong to the config.json beside it")
        except Exception as error:  # noqa: BLE001 - each of these libraries has its own kinds
            reason = str(error).partition("\n")[0]
            raise SystemExit(f"error: {folder} is not a complete export of nano_hindi for ONNX: {reason:.200}") from None
        past = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]
        self.cache = {value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for value in past}
        self.position = 0

    def read(self, ids: list[int]) -> np.ndarray:
        """Read tokens and return the logits (V,) of the next one."""
        reach = self.config["max_position_embeddings"] - 1  # no window is longer
        for start in range(0, len(ids), CHUNK):
            chunk = np.array([ids[start : start + CHUNK]], np.int64)
            length = next(iter(self.cache.values())).shape[2] + chunk.size
            positions = np.arange(self.position, self.position + chunk.size)[None]
            feed = {"input_ids": chunk, "attention_mask": np.ones((1, length), np.int64), "position_ids": positions, **self.cache}
            logits, *present = self.session.run(None, feed)
            self.cache = {name: kept[:, :, -reach:] for name, kept in zip(self.cache, present, strict=True)}
            self.position += chunk.size
        return logits[0, -1]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text to continue, or of a question, without special tokens in it."""
        for old, new in self.config["replace"]:
            text = text.replace(old, new)
        if self.config["prompt"] == "{}":
            return self.tokenizer.encode(text).ids
        return self.tokenizer.encode(self.config["prompt"].replace("{}", text.strip()), add_special_tokens=False).ids

    def generate(self, text: str, max_tokens: int, temperature: float, top_k: int, seed: int | None) -> Iterator[str]:
        """Yield the continuation of a text, or the answer to a question, in whole characters."""
        rng, shown = np.random.default_rng(seed), ""
        ids = unread = self.encode(text)
        before = len(self.tokenizer.decode(ids))
        for _ in range(max_tokens):
            logits = self.read(unread)
            best = np.argpartition(logits, -top_k)[-top_k:] if 0 < top_k < logits.size else np.arange(logits.size)
            noisy = logits[best] + temperature * rng.gumbel(size=best.size)  # its maximum is a sample of softmax(logits / temperature)
            token = int(best[noisy.argmax()])
            if token == self.config["eos_token_id"]:
                break
            ids, unread = [*ids, token], [token]
            whole = self.tokenizer.decode(ids)[before:]
            if not whole.endswith("\ufffd"):  # the rest of its bytes is still to come
                whole, has_ended = before_stop(whole, self.config["stop"])
                yield whole[len(shown) :]
                shown = whole
                if has_ended:
                    break


def before_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """Return a text up to the first of `stops` or to what may begin one, and whether it has one.
    An answer, which has stops, has no whitespace at its beginning."""
    text = f"\n{text.lstrip() if stops else text}"  # the line end before an answer, with which a stop may begin, is the prompt's
    if found := [text.index(stop) for stop in stops if stop in text]:
        return text[1 : min(found)], True
    held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[1 : len(text) - held], False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder written by export --format onnx")
    parser.add_argument("text", help="a text to continue, or a question to a chat model")
    parser.add_argument("--max_tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely token")
    parser.add_argument("--top_k", type=int, default=50, help="0: all tokens")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    if not 0 <= args.temperature < float("inf") or args.top_k < 0 or args.max_tokens < 1:
        parser.error("--temperature and --top_k must be at least 0, --max_tokens at least 1")
    model = Model(args.folder)
    text = args.text.rstrip(" ")  # the token of a word begins with the space before it
    if model.config["prompt"] == "{}":
        print(text, end="")
    for new in model.generate(text, args.max_tokens, args.temperature, args.top_k, args.seed):
        print(new, end="", flush=True)
    print()


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
    if hasattr(signal, "SIGPIPE"):  # so does `| head`; Windows has no such signal
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
