"""Write conversations as a data folder for finetune.py.

Like that of data/preprocess.py, with the line `kind: chat` in preprocess_meta.txt. train.bin and
val.bin hold the conversations one after another, little-endian uint32; the bit TARGET marks the
tokens that the model learns to predict. {train,val}_conversations.bin hold two little-endian uint32
for each conversation: its tokens, and how many of them are targets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nano_hindi.chat.records import KNOWN_FIELDS, UNKNOWN_LAYOUT, Mender
from nano_hindi.chat.sources import KeyedRecord
from nano_hindi.chat.template import render_batch
from nano_hindi.corpus.documents import count_words
from nano_hindi.corpus.prepared import METADATA, index_file, require_both_splits, require_places, save_tokenizer, tokenizer_record, write_digests
from nano_hindi.corpus.tokenize import ENCODED_AT_ONCE, SPLITS, is_for_validation
from nano_hindi.errors import UserError
from nano_hindi.files import replacing, write_metadata
from nano_hindi.sample.questions import Conversation, conversations
from nano_hindi.token_file import TARGET
from nano_hindi.tokenizer import Tokenizer


def unseen(val_fraction: float) -> Iterator[Conversation]:
    """Yield conversations of the sample about stories that are in no training split with that
    `val_fraction`, whatever the seed of the training data."""
    return (conversation for conversation in conversations() if is_for_validation(conversation.story.encode(), val_fraction))


class ConversationWriter:
    """Write conversations to the files of a folder, which get their names at the end of the block
    if it succeeds.

    `counts` has documents, tokens, targets and bytes of each split, words of both, and those of the
    mender.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, max_length: int, val_fraction: float):
        self.folder, self.tokenizer, self.max_length, self.val_fraction = folder, tokenizer, max_length, val_fraction
        self.too_long = f"dropped: longer than {max_length:,} tokens (--max_length)"
        self.mender = Mender()
        self.counts = self.mender.counts
        # more text is surely too long; the tokenizer takes a minute and 5 GB for a text of 50 MB
        self._most_bytes = max_length * max(map(len, tokenizer.piece_bytes))
        self._files: dict[Path, BinaryIO] = {}

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Open the files. Raises IsADirectoryError or UserError if something is in their place, and
        UserError if a split has no conversations at the end of the block.

        The metadata of earlier data is deleted before the first file gets its name.
        """
        require_places(self.folder)
        with contextlib.ExitStack() as stack:  # gives the files their names
            with contextlib.ExitStack() as files:  # closes them before
                for split in SPLITS:
                    for path in (self.folder / f"{split}.bin", index_file(self.folder, split)):
                        self._files[path] = files.enter_context(open(stack.enter_context(replacing(path)), "wb"))
                yield
            self._require_both_splits()
            (self.folder / METADATA).unlink(missing_ok=True)

    def _require_both_splits(self) -> None:
        if not self.counts["train_documents"] + self.counts["val_documents"]:
            known = f"; known are records with the fields {KNOWN_FIELDS}" if self.counts[f"dropped: {UNKNOWN_LAYOUT}"] else ""
            raise UserError(f"no conversation is left; the counts above say why{known}")
        require_both_splits(self.counts, "conversation", self.val_fraction)

    def write(self, records: Iterable[KeyedRecord], limit: int | None) -> Iterator[int]:
        """Write the conversations of one source, at most `limit` of them. Yields the number written
        after each batch."""
        written, characters, batch = 0, 0, []
        for key, record in records:
            if (messages := self.mender(record)) is None:
                continue
            if sum(len(message["content"].encode()) for message in messages) > self._most_bytes:
                self.counts.update({self.too_long: 1, "kept": -1})
                continue
            batch.append((key, messages))
            characters += sum(len(message["content"]) for message in messages)
            is_last = limit is not None and written + len(batch) >= limit
            if characters >= ENCODED_AT_ONCE or is_last:
                written += self._write(batch)
                characters, batch = 0, []
                yield written
                if limit is not None and written >= limit:
                    return
        yield written + self._write(batch)

    def _write(self, batch: list[tuple[str | None, list[dict[str, str]]]]) -> int:
        kept = 0
        for (key, messages), rendered in zip(batch, render_batch(self.tokenizer, [messages for _, messages in batch]), strict=True):
            if len(rendered.ids) > self.max_length:
                self.counts.update({self.too_long: 1, "kept": -1})
                continue
            # without a key, all conversations with the same first question are in the same split
            text = next(message["content"] for message in messages if message["role"] == "user") if key is None else key
            split = SPLITS[is_for_validation(self.tokenizer.normalize(text).encode(), self.val_fraction)]
            is_target = np.array(rendered.is_target)
            tokens = np.array(rendered.ids, dtype="<u4") | np.where(is_target, TARGET, 0).astype("<u4")
            self._files[self.folder / f"{split}.bin"].write(tokens.tobytes())
            self._files[index_file(self.folder, split)].write(np.array([len(tokens), is_target.sum()], dtype="<u4").tobytes())
            contents = [message["content"] for message in messages]
            self.counts.update(
                {
                    f"{split}_documents": 1,
                    f"{split}_tokens": len(tokens),
                    f"{split}_targets": int(is_target.sum()),
                    f"{split}_bytes": sum(len(content.encode()) for content in contents),
                    "words": sum(map(count_words, contents)),
                }
            )
            kept += 1
        return kept

    def finish(self, settings: dict) -> None:
        """Write the tokenizer, the digests and, last, the metadata: a folder without it is not
        ready."""
        save_tokenizer(self.folder, self.tokenizer)
        counts = self.counts
        metadata = {
            "tokenizer": self.tokenizer.name,
            **tokenizer_record(self.tokenizer),
            **{f"{split}_{key}": counts[f"{split}_{key}"] for split in SPLITS for key in ("documents", "tokens", "targets", "bytes")},
            "words": counts["words"],
            "fertility": f"{(counts['train_tokens'] + counts['val_tokens']) / max(counts['words'], 1):.4f}",
        }
        write_metadata(self.folder / METADATA, metadata | settings | write_digests(self.folder, self.tokenizer.vocab_size))
