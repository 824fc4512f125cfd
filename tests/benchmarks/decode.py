"""Time the decoding of one token: against reading the weights once, against recomputing the whole
text; lm_head against the usual product; the cost of sampling from the logits; and a token of each
of several texts, with one forward pass as serve.py does it against one by one.

OMP_NUM_THREADS=2 python tests/benchmarks/decode.py
"""

from __future__ import annotations

import argparse

import torch
from timing import medians  # puts the repo's root on the path

from nano_hindi.config import get_config
from nano_hindi.engine import JoinedCaches, KVCache, next_logits, sample_token
from nano_hindi.model import GPT

PROMPT = 512  # tokens
TEXTS = 16  # at once


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="25m")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    config = get_config(args.config)
    model = GPT(config)
    model.init_weights()
    model.eval()
    text, new = torch.randint(config.vocab_size, (1, PROMPT)), torch.randint(config.vocab_size, (1, 1))
    cache = KVCache(config, 1, "cpu", torch.float32)
    next_logits(model, text, cache)
    texts = [KVCache(config, 1, "cpu", torch.float32) for _ in range(TEXTS)]
    for length, text_cache in enumerate(texts, start=50):
        next_logits(model, text[:, :length], text_cache)
    counts = model.num_params()
    read = 4 * (counts["blocks"] + counts["lm_head"])  # only one row of the embeddings is read
    memory, row, head = torch.randn(256 * 2**20), torch.randn(1, config.n_embd), model.lm_head
    logits, generator = 3 * torch.randn(1, config.vocab_size), torch.Generator().manual_seed(0)
    cached, recomputed, ours, usual, top_k, both, top_p, joined, separate, reading = medians(
        {
            "a token with the cache": lambda: next_logits(model, new, cache),
            f"a token by recomputing {PROMPT}": lambda: model.logits(model.trunk(text)[:, -1:]),
            "lm_head, as the model does it": lambda: head(row),
            "lm_head, the usual product": lambda: torch.nn.functional.linear(row, head.weight),
            "drawn with top_k 50": lambda: sample_token(logits, 0.8, 50, generator),
            "drawn with top_k 50 and top_p 0.9": lambda: sample_token(logits, 0.8, 50, generator, 0.9),
            "drawn with top_p 0.9": lambda: sample_token(logits, 0.8, 0, generator, 0.9),
            f"a token of each of {TEXTS} texts": lambda: next_logits(model, new.expand(TEXTS, 1), JoinedCaches(texts)),
            "the same one by one": lambda: [next_logits(model, new, text_cache) for text_cache in texts],
            "1 GiB read once": lambda: memory.sum(),
        },
        args.rounds,
    ).values()
    bandwidth = memory.nbytes / reading
    print(f"weights read for a token: {read / 1e6:.0f} MB, at the measured {bandwidth / 1e9:.1f} GB/s {read / bandwidth * 1e3:.2f} ms")
    print(f"a token with the cache: {cached * 1e3:.2f} ms, {1 / cached:.0f} tokens/s: {read / bandwidth / cached:.0%} of that rate")
    print(f"recomputing {PROMPT} tokens: {recomputed * 1e3:.0f} ms, {recomputed / cached:.0f} x as long")
    print(f"lm_head: {ours * 1e3:.2f} ms, the usual product {usual * 1e3:.2f} ms, {usual / ours:.2f} x as long")
    print(f"drawing a token: top_k 50 {top_k * 1e3:.2f} ms, with top_p 0.9 {both * 1e3:.2f} ms, top_p 0.9 alone {top_p * 1e3:.2f} ms")
    print(f"a token of each of {TEXTS} texts: {joined * 1e3:.0f} ms, one by one {separate * 1e3:.0f} ms, {separate / joined:.1f} x as long")


if __name__ == "__main__":
    main()
