"""Texts to the losses of their tokens, under a model of this program or of Hugging Face.

Every token is predicted from bos and the tokens before it; eos is left out, so the losses of a text add up to -ln p(text | bos). A text longer than the
context is read in spans that overlap by half, each behind a bos of its own: a token is scored once, with at least half a context before it.
"""

# B spans at once, T tokens of the longest of them, V vocabulary

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nano_hindi.common import compute_dtype
from nano_hindi.corpus.documents import batches
from nano_hindi.dataloader import IGNORED
from nano_hindi.errors import UserError
from nano_hindi.inference.loading import TrainedModel, build_model
from nano_hindi.tokenizer import Tokenizer, load_tokenizer, quiet_libraries

POOL_CHARACTERS = 50_000  # of texts whose spans are sorted by length together: hundreds of sentences, and seconds of work for a CPU
BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # that a model of this program takes at once
BATCH_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # that another model makes at once: 256 MiB and 1 GiB in float32
LONGEST_CONTEXT = 4096  # more would help few documents, and the logits of one span would fill the memory
UNKNOWN_CONTEXT = 1024  # for a model that names none


@dataclass(frozen=True)
class Scored:
    """A text and what its n tokens cost."""

    text: str
    losses: np.ndarray  # float64 (n,): nats of each token, given bos and those before it in its span
    sizes: np.ndarray  # int64 (n,): UTF-8 bytes of the text that each token stands for; they sum to those of the text
    positions: np.ndarray  # int64 (n,): tokens of context that each prediction saw; 0 = bos only
    lost: int = 0  # characters of the text that its tokens do not give back; above 0, the losses are those of another text


class Span(NamedTuple):
    """The tokens `begin` to `end` of a text are read together; those from `first` on are scored."""

    text: int
    begin: int
    first: int
    end: int


class Scorer:
    """A model and its tokenizer. `context` is how many tokens a span has, bos included in what it reads."""

    def __init__(self, name: str, model: torch.nn.Module, tokenizer: Tokenizer, context: int, batch_tokens: int):
        self.name, self.model, self.tokenizer, self.context, self.batch_tokens = name, model, tokenizer, context, batch_tokens

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """inputs, targets (B, T), target -1 ignored -> nats of the targets that count, in a row."""
        raise NotImplementedError

    def score(self, texts: Iterable[str]) -> Iterator[Scored]:
        """Each of `texts`, in their order. Raises UserError for text that is no Unicode."""
        for pool in batches(texts, POOL_CHARACTERS):
            yield from self._score_together(pool)

    def _score_together(self, texts: Sequence[str]) -> Iterator[Scored]:
        ids = [np.array(row, dtype=np.int64) for row in self.tokenizer.encode_batch(texts)]
        losses = [np.empty(len(row)) for row in ids]
        positions = [np.empty(len(row), dtype=np.int64) for row in ids]
        spans = [Span(text, *bounds) for text, row in enumerate(ids) for bounds in span_bounds(len(row), self.context)]
        for batch in batches_by_length(spans, self.batch_tokens):
            found = np.split(self._losses_of(batch, ids), np.cumsum([span.end - span.first for span in batch])[:-1])
            for span, part in zip(batch, found, strict=True):
                losses[span.text][span.first : span.end] = part
                positions[span.text][span.first : span.end] = np.arange(span.first - span.begin, span.end - span.begin)
        for text, row, *of_tokens in zip(texts, ids, losses, positions, strict=True):
            sizes, lost = sizes_of(text, row, self.tokenizer)
            yield Scored(text, of_tokens[0], sizes, of_tokens[1], lost)

    @torch.no_grad()
    def _losses_of(self, batch: Sequence[Span], ids: Sequence[np.ndarray]) -> np.ndarray:
        """The losses of what the spans of a batch score, one span after the other."""
        length = max(span.end - span.begin for span in batch)
        inputs = np.zeros((len(batch), length), dtype=np.int64)
        targets = np.full((len(batch), length), IGNORED)
        inputs[:, 0] = self.tokenizer.bos_id
        for row, span in enumerate(batch):
            inputs[row, 1 : span.end - span.begin] = ids[span.text][span.begin : span.end - 1]
            targets[row, span.first - span.begin : span.end - span.begin] = ids[span.text][span.first : span.end]
        device = next(self.model.parameters()).device
        return self.losses(torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)).double().cpu().numpy()


class CheckpointScorer(Scorer):
    """A model that this program trained; its context is its `sequence_len`."""

    def __init__(self, trained: TrainedModel, device: torch.device):
        model = build_model(trained, device)
        super().__init__(str(trained.path), model, trained.tokenizer, trained.config.sequence_len, BATCH_TOKENS[device.type])

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.model(inputs, targets, loss_reduction="none")[targets != IGNORED]


class HuggingFaceScorer(Scorer):
    """A causal language model in a folder, as `save_pretrained` or a download from the hub leaves it; its context is its `max_position_embeddings`, at most LONGEST_CONTEXT."""

    def __init__(self, folder: Path | str, device: torch.device, trust_remote_code: bool = False):
        """Raises UserError where the folder holds no such model, or no tokenizer whose tokens have fixed bytes."""
        tokenizer = load_tokenizer(folder)
        model = _load_causal_lm(Path(folder), trust_remote_code)
        # fp16, the dtype of GPUs without bf16, overflows in models that were trained in bf16
        model.to(device, torch.bfloat16 if compute_dtype(device) == torch.bfloat16 else torch.float32)
        rows = model.config.get_text_config().vocab_size
        if rows < tokenizer.vocab_size:
            raise UserError(f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces, but the model knows {rows}; put its own tokenizer there")
        named = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        context = min(named or UNKNOWN_CONTEXT, LONGEST_CONTEXT)
        if context != named:
            of_model = f"has a context of {named:,} tokens" if named else "names no context (max_position_embeddings)"
            print(f"notice: {folder} {of_model}; {context:,} tokens are used")
        super().__init__(str(folder), model, tokenizer, context, BATCH_LOGITS[device.type] // rows)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        counts = targets != IGNORED
        logits = self.model(input_ids=inputs, use_cache=False).logits[counts]  # what fills a row up stands behind its tokens, which do not see it
        return F.cross_entropy(logits.float(), targets[counts], reduction="none")


def _load_causal_lm(folder: Path, trust_remote_code: bool) -> torch.nn.Module:
    """The model of a folder, in evaluation mode. Raises UserError where there is none, or where weights are missing."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet_libraries():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code, output_loading_info=True
            )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".:")
        remedy = "it takes a folder with config.json and the weights; --trust_remote_code lets a model run code of its own"
        raise UserError(f"{folder} holds no causal language model that can be loaded ({reason}); {remedy}") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{folder} lacks weights of a causal language model ({', '.join(missing[:3])}); download it again, or use another model")
    return model.eval()


def span_bounds(tokens: int, context: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, end) of the spans over a text of so many tokens; see `Span`. `context` is at least 2."""
    begin = first = 0
    while first < tokens:
        end = min(begin + context, tokens)
        yield begin, first, end
        begin, first = end - (context + 1) // 2, end


def batches_by_length(spans: Iterable[Span], batch_tokens: int) -> Iterator[list[Span]]:
    """`spans`, the longest first, in lists that have at most `batch_tokens` places when filled up to their longest, or one span."""
    batch: list[Span] = []
    for span in sorted(spans, key=lambda span: span.begin - span.end):
        if batch and (len(batch) + 1) * (batch[0].end - batch[0].begin) > batch_tokens:
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch


def sizes_of(text: str, ids: np.ndarray, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """The UTF-8 bytes of `text` that each of its tokens stands for, int64 (n,), and how many of its characters the tokens do not give back.

    The dummy space has no byte. Where the tokens have other bytes than the text, the bytes of the text are dealt out in proportion.
    """
    raw = text.encode()
    if not len(ids):
        return np.zeros(0, dtype=np.int64), len(text)
    sizes = tokenizer.token_bytes()[ids].astype(np.int64)
    decoded = tokenizer.decode(ids)
    expected = tokenizer.as_decoded(text)
    lost = 0 if decoded == expected else (Counter(expected) - Counter(decoded)).total()
    if sizes.sum() == tokenizer.bytes_of_tokens([raw]):
        sizes[np.argmax(sizes > 0)] -= tokenizer.bytes_of_tokens([b""])  # the first byte of all is the dummy space
    else:
        ends = np.cumsum(np.maximum(sizes, 1))
        sizes = np.diff(np.rint(ends * (len(raw) / ends[-1])).astype(np.int64), prepend=0)
    return sizes, lost
