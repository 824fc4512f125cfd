"""Generate texts from a prompt, streamed in whole characters."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

from nano_hindi.inference.settings import Settings


def write(model, tokenizer, prompt: str, settings: Settings, n_texts: int, stop: threading.Event) -> Iterator[list[str]]:
    """Yield the new characters of `n_texts` texts: first those of the prompt, then those completed
    by each token, last those held back.

    Only whole characters are yielded; joined, they are the decoded tokens. Ends after `max_tokens`
    tokens, before eos, or when `stop` is set.
    """
    from nano_hindi.engine import generate_batch

    ids, first_ids = tokenizer.encode_open(prompt)
    streams = [tokenizer.text_stream() for _ in range(n_texts)]
    yield ["".join(map(stream.push, ids)) for stream in streams]
    steps = generate_batch(
        model,
        ids,
        n_texts,
        settings.max_tokens,
        settings.temperature,
        settings.top_k,
        secrets.randbits(32) if settings.seed is None else settings.seed,
        stop_ids=(tokenizer.eos_id,),
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        first_ids=first_ids,
    )
    for tokens in steps:
        yield ["" if token is None else stream.push(token) for stream, token in zip(streams, tokens, strict=True)]
        if stop.is_set():
            break
    yield [stream.flush() for stream in streams]
