"""Read the definition of a tokenizer, of a local folder or of a name on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.console import shell_quoted, shown
from nano_hindi.errors import UserError, first_line, naming
from nano_hindi.files import expanded, utf8_path
from nano_hindi.tokenizer.definition_check import DEFINITIONS, panics_as_errors, require_sound_definition

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerBase

# what `Tokenizer.save` writes into tokenizer_config.json
COPY_KEYS = {"tokenizer_class", "bos_token", "eos_token", "add_prefix_space", "clean_up_tokenization_spaces"}
_TRAIN_ONE = "train one on your own corpus, without the hub: data/preprocess.py --train_tokenizer N"


def tokenizer_of(name: str) -> str:
    """Return the tokenizer folder that `name` means: that of a file in it, of a folder of
    checkpoints, or of a model file. Another name, such as that of the folder itself, is returned as
    it is.

    Raises UserError for a folder that only holds folders of models.
    """
    path = expanded(name)
    folder = path.parent if path.is_file() else path
    inner = folder / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        if inner.is_dir():
            return str(inner)
        if models := sorted(found.parents[1] for found in folder.glob("*/tokenizer/tokenizer.json")):
            raise UserError(
                f"{shown(folder)} has no tokenizer, but folders in it have one; name the model's folder: --tokenizer {shell_quoted(models[0])}"
            )
    return name if folder == path else str(folder)


def model_of(name: str) -> Path | None:
    """Return the model file or folder of checkpoints that `name` is; None for a tokenizer alone."""
    path = expanded(name)
    has_model = path.is_file() or (path / "model.pt").is_file() or any(path.glob("checkpoint_step*.pt"))
    beside = (path.parent if path.is_file() else path) / "tokenizer"
    return path if has_model and tokenizer_of(name) == str(beside) else None


def read_definition(name: str) -> tuple[Backend, int | None, int | None]:
    """Return the `tokenizers.Tokenizer` of a folder (no network) or of a name on the hub, and its
    bos and eos ids. Raises UserError, with what to do, if it is not available."""
    folder = expanded(name)
    is_local = folder.is_dir()
    if not is_local and not re.fullmatch(r"[\w.-]*\w[\w.-]*(/[\w.-]*\w[\w.-]*)?", name):
        raise UserError(
            f"there is no tokenizer folder {name}; give one that holds tokenizer.json (--tokenizer FOLDER), a name on the hub such as "
            f"sarvamai/sarvam-1, or {_TRAIN_ONE}"
        )
    try:
        with naming(folder), panics_as_errors(), utf8_path(folder) as readable:
            return (is_local and _read_copy(readable)) or _read_with_transformers(readable, name, is_local)
    except Exception as error:
        if is_local and isinstance(error, OSError) and error.errno is not None:  # the files may be good
            raise
        raise UserError(_why_no_tokenizer(name, is_local, error)) from error


def _read_copy(folder: Path) -> tuple[Backend, int | None, int | None] | None:
    """Return what `read_definition` does of a copy by `Tokenizer.save`, None for another folder.

    A copy needs no AutoTokenizer, and importing transformers takes longer than reading the copy.
    """
    from tokenizers import Tokenizer as Backend

    if {path.name for path in folder.iterdir()} != {"tokenizer.json", "tokenizer_config.json"}:
        return None
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    if not isinstance(config, dict) or config.keys() != COPY_KEYS or config["tokenizer_class"] != "PreTrainedTokenizerFast":
        return None
    require_sound_definition(folder / "tokenizer.json")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    bos_id, eos_id = (backend.token_to_id(str(config[name])) for name in ("bos_token", "eos_token"))
    if bos_id is None or eos_id is None or backend.get_vocab_size() <= len({bos_id, eos_id}):
        return None
    return backend, bos_id, eos_id


def _read_with_transformers(folder: Path, name: str, is_local: bool) -> tuple[Backend, int | None, int | None]:
    with quiet_libraries():
        from huggingface_hub import try_to_load_from_cache
        from tokenizers import Tokenizer as Backend

        auto = _auto_tokenizer_of_folder(folder.absolute()) if is_local else _auto_tokenizer_of_hub(name)
        if not auto.is_fast:
            raise ValueError("it has no tokenizer.json")
        if len(auto.get_vocab()) <= len(set(auto.all_special_ids)):  # what transformers 5 builds from a config without a vocabulary
            raise ValueError("its vocabulary is empty")
        backend = Backend.from_str(auto.backend_tokenizer.to_str())
        # transformers 5 rebuilds Llama tokenizers from vocabulary and merges; the file has the
        # original definition
        file = folder / "tokenizer.json" if is_local else try_to_load_from_cache(name, "tokenizer.json")
        if isinstance(file, (str, Path)) and Path(file).is_file():  # the cache may also say that there is no such file
            from_file = Backend.from_file(str(file))
            if auto.get_vocab().items() <= from_file.get_vocab(with_added_tokens=True).items():
                backend = from_file
    bos_id, eos_id = (backend.token_to_id(str(token)) if token is not None else None for token in (auto.bos_token, auto.eos_token))
    return backend, bos_id, eos_id


def _auto_tokenizer_of_folder(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    for name in DEFINITIONS:
        if (folder / name).is_file():
            require_sound_definition(folder / name)
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _auto_tokenizer_of_hub(name: str) -> PreTrainedTokenizerBase:
    """Return the AutoTokenizer of a name on the hub, from the local cache if it is there: a second
    use needs no network."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError
    from transformers import AutoTokenizer

    def load(local_files_only: bool) -> PreTrainedTokenizerBase:
        for file in DEFINITIONS:
            with contextlib.suppress(EntryNotFoundError):
                require_sound_definition(Path(hf_hub_download(name, file, local_files_only=local_files_only)))
        return AutoTokenizer.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)

    with contextlib.suppress(Exception):
        return load(local_files_only=True)
    with contextlib.suppress(EntryNotFoundError):  # one request first: AutoTokenizer retries an unreachable hub for most of a minute
        get_hf_file_metadata(hf_hub_url(name, "tokenizer_config.json"), timeout=20)
    return load(local_files_only=False)


def _why_no_tokenizer(name: str, is_local: bool, error: Exception) -> str:
    reason = first_line(error)
    if is_local:
        if not any((expanded(name) / file).is_file() for file in DEFINITIONS):  # each transformers words it otherwise
            reason = "it has no tokenizer.json"
        return f"the folder {name} holds no readable tokenizer ({reason}); it needs tokenizer.json and tokenizer_config.json"
    return (
        f"the tokenizer {name} is not a local folder and could not be downloaded ({reason}); check the name, the connection (HF_ENDPOINT names a "
        f"mirror), and HF_TOKEN if it is gated, or give a folder that holds its tokenizer.json (--tokenizer FOLDER), or {_TRAIN_ONE}"
    )


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the warnings and progress bars of transformers and huggingface_hub within the block,
    and restore their settings after it."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    loggers = (transformers_logging, hub_logging)
    levels, has_bars = [logger.get_verbosity() for logger in loggers], transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.set_verbosity_error()
            if has_bars:
                transformers_logging.disable_progress_bar()
            yield
        finally:
            if has_bars:
                transformers_logging.enable_progress_bar()
            for logger, level in zip(loggers, levels, strict=True):
                logger.set_verbosity(level)
