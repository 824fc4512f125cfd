"""Compute the loss of every token of a text, with a model of this program or of Hugging Face.

Every token is predicted from bos and the tokens before it. There is no eos, so the losses of a text
add up to -ln p(text | bos). A text longer than the context is split into spans that overlap by
half, each after its own bos: every token is scored once, and from the second span on with at least
half a context before it.
"""

# B spans at once, T tokens of the longest of them, V vocabulary

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nano_hindi.common import IGNORED, compute_dtype, visible
from nano_hindi.corpus.documents import batches
from nano_hindi.errors import UserError, first_line, require
from nano_hindi.files import utf8_path
from nano_hindi.inference.loading import TrainedModel, build_model
from nano_hindi.tokenizer import Tokenizer, load_tokenizer
from nano_hindi.tokenizer.hub import quiet_libraries
from nano_hindi.tokenizer.nfc import to_nfc

POOL_CHARACTERS = 50_000  # characters of text whose spans are sorted by length together: hundreds of sentences, seconds of work for a CPU
BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # per batch, for a model of this program
BATCH_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # per batch, for a Hugging Face model: 256 MiB and 1 GiB in float32
LONGEST_CONTEXT = 4096  # more would help few documents, and the logits of one span would fill the memory
UNKNOWN_CONTEXT = 1024  # for a model whose configuration has none


@dataclass(frozen=True)
class Scored:
    """A text and the losses of its n tokens."""

    text: str  # in NFC
    losses: np.ndarray  # float64 (n,): nats of each token, given bos and the tokens before it in its span
    sizes: np.ndarray  # int64 (n,): UTF-8 bytes of the text that each token covers; they sum to the bytes of the text
    positions: np.ndarray  # int64 (n,): tokens of context of each prediction; 0 = bos only
    lost: int = 0  # characters of the text that decoding does not restore; above 0, the losses are those of an altered text


class Span(NamedTuple):
    """A range of tokens of a text, `begin` to `end`, that the model reads together. Those from
    `first` on are scored."""

    text: int
    begin: int
    first: int
    end: int


class Scorer:
    """A model and its tokenizer. `context` is the maximum number of tokens of a span; the model's
    input is bos and all of them but the last."""

    is_chat = False  # whether finetune.py made the model

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, context: int, batch_tokens: int):
        self.name, self.model, self.tokenizer, self.context, self.batch_tokens = name, model, tokenizer, context, batch_tokens

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of all targets that are not -1, in row-major order. inputs and targets
        (B, T)."""
        raise NotImplementedError

    def score(self, texts: Iterable[str]) -> Iterator[Scored]:
        """Yield each of `texts` scored, in order.

        Every model scores it in NFC, whatever its own tokenizer does, so that the bytes are the
        same for all. Raises UserError for text that is not valid Unicode.
        """
        for pool in batches((to_nfc(text) for text in texts), POOL_CHARACTERS):
            yield from self._score_together(pool)

    def _score_together(self, texts: Sequence[str]) -> Iterator[Scored]:
        ids = [np.array(row, dtype=np.int64) for row in self.tokenizer.encode_batch(texts)]
        losses = [np.empty(len(row)) for row in ids]
        positions = [np.empty(len(row), dtype=np.int64) for row in ids]
        spans = [Span(text, *bounds) for text, row in enumerate(ids) for bounds in span_bounds(len(row), self.context)]
        for batch in batches_by_length(spans, self.batch_tokens):
            found = np.split(self._losses_of(batch, ids), np.cumsum([span.end - span.first for span in batch])[:-1])
            for span, nats in zip(batch, found, strict=True):
                losses[span.text][span.first : span.end] = nats
                positions[span.text][span.first : span.end] = np.arange(span.first - span.begin, span.end - span.begin)
        for text, row, nats, places in zip(texts, ids, losses, positions, strict=True):
            sizes, lost = sizes_of(text, row, self.tokenizer)
            yield Scored(text, nats, sizes, places, lost)

    @torch.no_grad()
    def _losses_of(self, batch: Sequence[Span], ids: Sequence[np.ndarray]) -> np.ndarray:
        """Return the losses of the scored tokens of a batch, span after span."""
        length = max(span.end - span.begin for span in batch)
        inputs = np.zeros((len(batch), length), dtype=np.int64)
        targets = np.full((len(batch), length), IGNORED, dtype=np.int64)
        inputs[:, 0] = self.tokenizer.bos_id
        for row, span in enumerate(batch):
            inputs[row, 1 : span.end - span.begin] = ids[span.text][span.begin : span.end - 1]
            targets[row, span.first - span.begin : span.end - span.begin] = ids[span.text][span.first : span.end]
        device = next(self.model.parameters()).device
        return self.losses(torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)).double().cpu().numpy()


class CheckpointScorer(Scorer):
    """A scorer for a model that this program trained. Its context is the model's `sequence_len`."""

    def __init__(self, trained: TrainedModel, device: torch.device):
        model = build_model(trained, device)
        super().__init__(str(trained.path), model, trained.tokenizer, trained.config.sequence_len, BATCH_TOKENS[device.type])
        self.is_chat = trained.is_chat

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.model(inputs, targets, loss_reduction="none")[targets != IGNORED]


class HuggingFaceScorer(Scorer):
    """A scorer for a causal language model in a folder, as written by `save_pretrained` or
    downloaded from the hub.

    Its context is the model's `max_position_embeddings`, but at most LONGEST_CONTEXT.
    """

    def __init__(self, folder: Path | str, device: torch.device, trust_remote_code: bool = False):
        """Load model and tokenizer. Raises UserError if the folder holds no such model, or no
        tokenizer whose tokens have fixed bytes."""
        require(Path(folder).is_dir(), f"there is no folder {folder}; --hf takes a folder that holds a model: config.json, weights and tokenizer")
        _require_layers(Path(folder))
        tokenizer = load_tokenizer(folder)
        model = _load_causal_lm(Path(folder), trust_remote_code)
        # not fp16 on GPUs without bf16: it overflows in models that were trained in bf16
        model.to(device, torch.bfloat16 if compute_dtype(device) == torch.bfloat16 else torch.float32)
        rows = model.config.get_text_config().vocab_size
        if rows < tokenizer.vocab_size:
            raise UserError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, but the model only {rows}; put the model's own tokenizer there"
            )
        named = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        context = min(named or UNKNOWN_CONTEXT, LONGEST_CONTEXT)
        if context != named:
            of_model = f"has a context of {named:,} tokens" if named else "has no max_position_embeddings"
            print(visible(f"notice: {folder} {of_model}; using a context of {context:,} tokens"))
        super().__init__(str(folder), model, tokenizer, context, BATCH_LOGITS[device.type] // rows)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        is_target = targets != IGNORED
        logits = self.model(input_ids=inputs, use_cache=False).logits[is_target]  # padding follows the tokens of a row, so they do not see it
        return F.cross_entropy(logits.float(), targets[is_target], reduction="none")


def _load_causal_lm(folder: Path, trust_remote_code: bool) -> Any:
    """Load the model of a folder, in evaluation mode. Raises UserError if there is none, or if
    weights are missing."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet_libraries(), utf8_path(folder) as readable:
            options = {"local_files_only": True, "trust_remote_code": trust_remote_code, "output_loading_info": True}
            loaded: Any = AutoModelForCausalLM.from_pretrained(readable, **options)
            model, info = loaded
    except Exception as error:
        remedy = "give a folder with config.json and weights; if the model has its own code, add --trust_remote_code"
        raise UserError(f"{folder} holds no causal language model that can be loaded ({first_line(error)}); {remedy}") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{folder} lacks weights of a causal language model ({', '.join(missing[:3])}); download it again, or use another model")
    return model.eval()


def _require_layers(folder: Path) -> None:
    """Raise UserError if the configuration of a folder has more layers than there are tensors, in
    safetensors files: transformers would build them first, whatever time and memory they take."""
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        layers = max(int(config.get(name) or 0) for name in ("num_hidden_layers", "n_layer", "num_layers"))
        tensors = 0
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="pt") as content:
                tensors += len(content.keys())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError):
        return  # whoever loads the folder says what is wrong
    if 0 < tensors < layers:
        raise UserError(f"{folder} is damaged: its config.json has {layers} layers, but there are {tensors} tensors; download it again")


def span_bounds(tokens: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, first, end) of the spans over a text of `tokens` tokens; see `Span`. `context`
    is at least 2."""
    begin = first = 0
    while first < tokens:
        end = min(begin + context, tokens)
        yield begin, first, end
        begin, first = end - (context + 1) // 2, end


def batches_by_length(spans: Iterable[Span], batch_tokens: int) -> Iterator[list[Span]]:
    """Yield batches of `spans`, longest first. A batch padded to its longest span has at most
    `batch_tokens` tokens, or is a single span."""
    batch: list[Span] = []
    for span in sorted(spans, key=lambda span: span.begin - span.end):
        if batch and (len(batch) + 1) * (batch[0].end - batch[0].begin) > batch_tokens:
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch


def sizes_of(text: str, ids: np.ndarray, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """Return the UTF-8 bytes of `text` that each token covers, int64 (n,), and the number of
    characters that decoding does not restore.

    The dummy space counts no byte. If the tokens' bytes do not add up to those of the text, the
    bytes of the text are distributed in proportion.
    """
    raw = text.encode()
    if not len(ids):
        return np.zeros(0, dtype=np.int64), len(text)
    sizes = tokenizer.token_bytes[ids].astype(np.int64)
    decoded = tokenizer.decode(ids)
    expected = tokenizer.as_decoded(text)
    lost = 0 if decoded == expected else (Counter(expected) - Counter(decoded)).total()
    if sizes.sum() == tokenizer.bytes_of_tokens([raw]):
        sizes[np.argmax(sizes > 0)] -= tokenizer.bytes_of_tokens([b""])  # the first byte is the dummy space
    else:
        ends = np.cumsum(np.maximum(sizes, 1))
        sizes = np.diff(np.rint(ends * (len(raw) / ends[-1])).astype(np.int64), prepend=0)
    return sizes, lost
