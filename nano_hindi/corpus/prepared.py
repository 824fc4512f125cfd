"""Load the output of data/preprocess.py, and check it against preprocess_meta.txt."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from nano_hindi.dataloader import TOKEN_BYTES, TokenFile
from nano_hindi.errors import UserError
from nano_hindi.files import file_size, read_metadata
from nano_hindi.tokenizer import Tokenizer, load_tokenizer

CHECKED_IDS = 2**28  # 1 GB: a second or two from a fast disk


@dataclass(frozen=True)
class DataInfo:
    """Hold the contents of a data folder's preprocess_meta.txt, and its tokenizer."""

    tokenizer: Tokenizer
    tokenizer_name: str
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


def check_data(data_dir: str | Path) -> DataInfo:
    """Return the metadata of a data folder, after checking its files against it.

    Raises UserError, with what to do, if a file is missing, its size is not what
    preprocess_meta.txt says, it holds ids outside the vocabulary, or the tokenizer is a different
    one. Only the first CHECKED_IDS ids of each split are checked here; the data loader checks each
    batch.
    """
    folder, again = Path(data_dir), "run data/preprocess.py again"
    path = folder / "preprocess_meta.txt"
    metadata = read_metadata(path)
    whole_numbers = [field.name for field in fields(DataInfo) if field.type == "int"]
    try:
        info = {name: int(metadata[name]) for name in whole_numbers}
        info |= {"fertility": float(metadata["fertility"]), "tokenizer_name": metadata["tokenizer"], "fingerprint": metadata["fingerprint"]}
    except KeyError as error:
        raise UserError(f"{path} has no line {error.args[0]}; {again}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    for split in ("train", "val"):
        size, tokens = file_size(folder / f"{split}.bin"), info[f"{split}_tokens"]
        if size != tokens * TOKEN_BYTES:
            raise UserError(f"{folder / f'{split}.bin'} has {size:,} bytes, but {path.name} says {tokens:,} tokens of {TOKEN_BYTES} bytes; {again}")
    tokenizer_dir = folder / "tokenizer"
    if not tokenizer_dir.is_dir():
        raise UserError(f"{tokenizer_dir} is missing (the copy of the tokenizer that the data was made with); {again}")
    tokenizer = load_tokenizer(tokenizer_dir)
    found = {"fingerprint": tokenizer.fingerprint(), "vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    if found.items() - info.items():
        raise UserError(
            f"{tokenizer_dir} is not the tokenizer that the data was made with ({info['tokenizer_name']}); restore the original, or {again}"
        )
    for split in ("train", "val"):
        file = TokenFile(folder / f"{split}.bin", tokenizer.vocab_size)
        file.require_in_vocabulary(file.tokens[:CHECKED_IDS])
    return DataInfo(tokenizer=tokenizer, **info)
