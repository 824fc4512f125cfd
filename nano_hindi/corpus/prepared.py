"""Load the output of data/preprocess.py or data/chat.py, checked against preprocess_meta.txt; and
write what both have besides the tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nano_hindi.console import counted
from nano_hindi.errors import UserError
from nano_hindi.files import TEXT_MAKERS, has_lines, read_metadata, require_made, require_not_folder, write_metadata
from nano_hindi.token_file import TokenFile
from nano_hindi.tokenizer import Tokenizer, load_tokenizer

METADATA, DIGESTS = "preprocess_meta.txt", "preprocess_digests.txt"
TEXT, CHAT = "text", "chat"  # the line `kind` of preprocess_meta.txt; text if there is none
COMMANDS = {TEXT: "data/preprocess.py", CHAT: "data/chat.py"}
KIND_DESCRIPTIONS = {
    TEXT: "text, which train.py takes; data/chat.py makes chat data",
    CHAT: "chat data, which finetune.py takes; data/preprocess.py makes data of text",
}
CHECKED_IDS, READ_IDS = 2**28, 2**22  # 1 GB: a second or two from a fast disk; read 16 MB at a time


@dataclass(frozen=True)
class DataInfo:
    """The contents of a data folder's preprocess_meta.txt, its tokenizer and its token files."""

    tokenizer: Tokenizer  # the copy in the folder, with the name of its origin
    fingerprint: str
    vocab_size: int
    bos_id: int
    eos_id: int
    train_documents: int
    train_tokens: int
    train_bytes: int
    val_documents: int
    val_tokens: int
    val_bytes: int
    fertility: float
    train_digest: str  # of the digests of the chunks of train.bin; "" in data of an older version
    val_digest: str  # the same of val.bin
    train: TokenFile
    val: TokenFile

    def record(self) -> dict:
        """Return the metadata that a checkpoint keeps of the folder."""
        return {name: getattr(self, name) for name in ("train_tokens", "val_tokens", "train_digest", "val_digest")}


def check_data(data_dir: str | Path, every_chunk: bool = False, kind: str = TEXT) -> DataInfo:
    """Return the metadata of a data folder and its open token files, after checking the files
    against it.

    Raises UserError, with what to do, if a file is missing, its size or digest is not what
    preprocess_meta.txt says, it holds ids outside the vocabulary, the tokenizer is a different one,
    or the data is of another kind. Only the first CHECKED_IDS ids of each split are checked here;
    the data loader checks each batch. Unless `every_chunk`, the digests of a sample are checked,
    see `TokenFile.require_digests`.
    """
    folder = Path(data_dir)
    path = folder / METADATA
    makers = "data/chat.py" if kind == CHAT else TEXT_MAKERS
    metadata = read_metadata(path, makers)
    if (found_kind := metadata.get("kind", TEXT)) != kind:
        raise UserError(f"{folder} holds {KIND_DESCRIPTIONS.get(found_kind, 'data of a newer version')}")
    again = f"run {COMMANDS[kind]} again"
    whole_numbers = [field.name for field in fields(DataInfo) if field.type == "int"]  # a string, as annotations are not evaluated
    try:
        info: dict[str, Any] = {name: int(metadata[name]) for name in whole_numbers}
        info |= {"fertility": float(metadata["fertility"]), "fingerprint": metadata["fingerprint"]}
        origin = metadata["tokenizer"]
    except KeyError as error:
        raise UserError(f"{path} has no line {error.args[0]}; {again}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    tokenizer_dir = folder / "tokenizer"
    if not tokenizer_dir.is_dir():
        raise UserError(f"{tokenizer_dir} is missing (the copy of the tokenizer that the data was made with); {again}")
    tokenizer = load_tokenizer(tokenizer_dir)
    if tokenizer_record(tokenizer).items() - info.items():
        raise UserError(f"{tokenizer_dir} is not the tokenizer that the data was made with ({origin}); restore the original, or {again}")
    tokenizer.name = origin
    listed = read_metadata(folder / DIGESTS) if (folder / DIGESTS).is_file() else {}
    for split in ("train", "val"):
        file = info[split] = TokenFile(folder / f"{split}.bin", tokenizer.vocab_size, marks_targets=kind == CHAT)
        if len(file) != (tokens := info[f"{split}_tokens"]):
            raise UserError(f"{file.path} has {len(file):,} tokens, but {path.name} says {tokens:,}; {again}")
        info[f"{split}_digest"] = digest = metadata.get(f"{split}_digest", "")
        if digest:
            _check_digests(file, digest, listed.get(split, "").split(), every_chunk)
        for begin in range(0, min(len(file), CHECKED_IDS), READ_IDS):
            file.require_in_vocabulary(file[begin : begin + READ_IDS])
    data = DataInfo(tokenizer=tokenizer, **info)
    if kind == CHAT:
        for split in ("train", "val"):
            read_conversations(folder, data, split)
    return data


def is_ready(folder: Path, settings: Mapping[str, object], kind: str = TEXT) -> bool:
    """Return whether a folder holds the complete output of a command with these settings; damaged
    data is made again.

    Raises UserError if it holds data of the other command, or if METADATA does not tell.
    """
    if not (folder / METADATA).is_file():
        return False
    metadata = read_metadata(folder / METADATA)
    if (found := metadata.get("kind", TEXT)) != kind:
        raise UserError(f"{folder} holds data of {COMMANDS.get(found, 'a newer version')}; choose another --output_dir")
    try:
        return has_lines(metadata, settings) and bool(check_data(folder, every_chunk=True, kind=kind))
    except UserError:
        return False


def _check_digests(file: TokenFile, digest: str, listed: list[str], every_chunk: bool) -> None:
    """Compare a token file with the digests of its chunks that DIGESTS lists, or all of it with
    `digest` if the list is missing or not of this file."""
    if digest_of_chunks(listed) == digest:
        file.require_digests(listed, every_chunk)
    elif digest_of_chunks(found := list(file.chunk_digests())) == digest:
        file.digests = found
    else:
        raise UserError(f"{file.path} is damaged: it is not what {file.maker} wrote; {file.restore}")


def index_file(folder: Path, split: str) -> Path:
    """Return the file with the lengths of the conversations of a split, see chat/dataset.py."""
    return folder / f"{split}_conversations.bin"


def read_conversations(folder: Path, info: DataInfo, split: str) -> np.ndarray:
    """Return the tokens and the targets of each conversation of a split, int64 (conversations, 2).

    Raises UserError if the file is missing or not that of the split's tokens.
    """
    path, tokens = index_file(folder, split), len(info.train if split == "train" else info.val)
    documents = info.train_documents if split == "train" else info.val_documents
    require_made(path, "data/chat.py")
    if path.stat().st_size == 8 * documents:
        pairs = np.fromfile(path, dtype="<u4").reshape(-1, 2).astype(np.int64)
        if pairs[:, 0].sum() == tokens:
            return pairs
    raise UserError(f"{path} does not fit {split}.bin; run data/chat.py again")


# ---- what data/preprocess.py and data/chat.py write besides the tokens


def require_places(folder: Path) -> None:
    """Raise IsADirectoryError or UserError if a folder is in the place of a file of prepared data,
    or a file in that of the tokenizer."""
    for name in ("train.bin", "val.bin", METADATA):
        require_not_folder(folder / name)
    if (copy := folder / "tokenizer").is_file():
        raise UserError(f"{copy} is a file, but the copy of the tokenizer needs that name; move it, or choose another --output_dir")


def require_both_splits(counts: Mapping[str, int], what: str, val_fraction: float) -> None:
    """Raise UserError if a split has no documents, each of which is called `what`."""
    total = counts["train_documents"] + counts["val_documents"]
    for split, name, change in (("val", "validation", "larger"), ("train", "training", "smaller")):
        if not counts[f"{split}_documents"]:
            raise UserError(
                f"the {name} split has none of {counted(total, what)}; give a {change} --val_fraction than {val_fraction:g}, or more {what}s"
            )


def tokenizer_record(tokenizer: Tokenizer) -> dict[str, str | int]:
    """Return what METADATA and a checkpoint keep of a tokenizer, besides its name."""
    return {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the copy of the tokenizer, unless the tokenizer was loaded from there."""
    copy = folder / "tokenizer"
    if not (copy.is_dir() and Path(tokenizer.name).is_dir() and copy.samefile(tokenizer.name)):
        tokenizer.save(copy)


def write_digests(folder: Path, vocab_size: int) -> dict[str, str]:
    """Write DIGESTS, the digests of the chunks of train.bin and val.bin. Returns the digest of each
    file, for preprocess_meta.txt."""
    chunks = {split: list(TokenFile(folder / f"{split}.bin", vocab_size).chunk_digests()) for split in ("train", "val")}
    write_metadata(folder / DIGESTS, {split: " ".join(digests) for split, digests in chunks.items()})
    return {f"{split}_digest": digest_of_chunks(digests) for split, digests in chunks.items()}


def digest_of_chunks(digests: list[str]) -> str:
    """Return the digest of a file, given those of its chunks."""
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()
