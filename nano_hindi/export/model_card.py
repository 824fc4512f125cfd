"""The model card of an export: README.md with what is known, and what is not, about the model, its
training, its data and the licences."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch

from nano_hindi.checkpoint import CHECKPOINT_KEYS, checkpoint_path
from nano_hindi.config import GPTConfig, TrainConfig, from_dict
from nano_hindi.console import counted, shell_quoted
from nano_hindi.corpus.prepared import METADATA
from nano_hindi.corpus.sources import MAKERS
from nano_hindi.files import read_metadata
from nano_hindi.inference.loading import TrainedModel, training_record
from nano_hindi.model import GPT
from nano_hindi.optim import X0_LAMBDA_BETA1

HUB_SOURCE = re.compile(r"([\w.-]+/[\w.-]+)(?:[ ,]+(.*))?")  # a data set on the hub, and which of its files; paths are absolute
SARVAM, SARVAM_PAGE = "sarvamai/sarvam-1", "https://huggingface.co/sarvamai/sarvam-1"
NOTES = {  # by format, below the example
    "onnx": "`model.onnx` is a graph with a KV cache for ONNX Runtime. The program is in the repo of nano_hindi, as is a page that runs the model in a\n"
    "browser. Weights of 8 and 4 bits need ONNX Runtime 1.23 or later.",
    "transformers": "`trust_remote_code=True` runs `modeling_nano_hindi.py` of this folder (MIT License). It needs only torch and transformers.\n"
    '`pipeline("text-generation", ...)` works too, but in transformers 5 it may drop the space between the prompt and the first new word.',
}
BASE_NOTE = """The training started from the weights of a base model. The text that the base model was trained on, and its licence, are not named here:
see the card of the base model."""


@dataclass(frozen=True)
class Card:
    """The content of a model card.

    `training` is the checkpoint without its tensors, `data` the entries of the data's metadata
    files. Both are empty if unknown.
    """

    config: GPTConfig
    step: int
    dtype: str
    format: str  # transformers, onnx
    is_chat: bool
    checkpoint: Path
    training: dict
    data: dict[str, str]

    @classmethod
    def of(cls, trained: TrainedModel, data_dir: Path, dtype: str, format: str) -> Card:
        record = training_record(trained, CHECKPOINT_KEYS)
        training = {key: value for key, value in record.items() if key not in ("model_state_dict", "optimizers", "rng")}
        return cls(trained.config, trained.step, dtype, format, trained.is_chat, trained.path, training, data_metadata(data_dir, training))

    @functools.cached_property
    def parameters(self) -> dict[str, int]:
        """Return the counts of `GPT.num_params` without the padding rows, which an export does not
        have."""
        with torch.device("meta"):
            counts = GPT(self.config).num_params()
        del counts["total"]
        for table in ("wte", "lm_head", "value_embeds"):
            counts[table] = counts[table] // self.config.padded_vocab_size * self.config.vocab_size
        return counts | {"total": sum(counts.values())}

    @property
    def has_base(self) -> bool:
        """Return whether the training started from the weights of another model."""
        return self.is_chat or "parent" in self.training

    def notices(self) -> list[str]:
        """Return notices for the user about gaps in the card."""
        notices = []
        if not self.training:
            whole = checkpoint_path(self.checkpoint.parent, self.step)
            notices.append(f"notice      the card says nothing about the training: there is no whole {whole}; put it there and export again")
        elif folders := self.training["data"].get("sources"):
            notices.append(f"notice      the training text is a mixture of {len(folders)} folders; name their sources and licences in the card")
        elif not self.data.get("source"):
            text, written_by = "training text", "which has the metadata.txt of data/download.py in its folder raw"
            if self.is_chat:
                text, written_by = "conversations", "which data/chat.py wrote"
            notices.append(
                f"notice      the card does not name the {text}; export again with --data_dir DIR, the data folder of the run, {written_by}"
            )
        if self.has_base:
            notices.append(
                "notice      the card does not name the text that the base model was trained on; name it and its licence, or link that model's card"
            )
        return notices

    def text(self, name: str) -> str:
        """Return README.md for a model called `name`."""
        sections = (
            self.front_matter(),
            self.introduction(name),
            self.model(),
            self.training_section(),
            [*self.data_section(), *(["", BASE_NOTE] if self.has_base else [])],
            self.tokenizer_section(),
        )
        return "\n\n".join("\n".join(lines) for lines in sections) + "\n"

    def front_matter(self) -> list[str]:
        found = [HUB_SOURCE.fullmatch(source["source"]) for source in self.sources()]
        names = list(dict.fromkeys(match[1] for match in found if match))
        datasets = [f"datasets: [{', '.join(names)}]"] if names else []
        return ["---", "language: hi", f"library_name: {self.format}", "pipeline_tag: text-generation", "tags: [nano_hindi]", *datasets, "---"]

    def introduction(self, name: str) -> list[str]:
        made = f"A language model of {self.parameters['total']:,} parameters, trained from scratch on Hindi text with nano_hindi"
        plain = (
            f"{made}. It continues a text. It was not",
            "trained to answer questions or to follow instructions, and what it writes may be wrong or unfair.",
        )
        chat = (f"{made} and then", "fine-tuned on conversations. It answers questions, and what it writes may be wrong or unfair.")
        return [
            f"# {name}",
            "",
            *(chat if self.is_chat else plain),
            "",
            "```" if self.format == "onnx" else "```python",
            *usage(name, self.format, self.is_chat),
            "```",
            "",
            NOTES[self.format],
        ]

    def model(self) -> list[str]:
        c, n = self.config, self.parameters
        added = ["the embedding of the previous token, times a gate"] * c.smear
        added += [f"the embeddings of the {c.embedding_conv} previous tokens, times weights per channel"] * (c.embedding_conv > 0)
        labels = {"blocks": "blocks", "wte": "wte", "lm_head": "lm_head", "value_embeds": "value embeddings", "scalars": "scalars"}
        rows = {
            "parameters": f"{n['total']:,}",
            "by kind": "; ".join(f"{label} {n[kind]:,}" for kind, label in labels.items() if n[kind]) + "; wte is also lm_head" * c.tie_embeddings,
            "weights": self.dtype,
            "layers, width": f"{c.n_layer}, {c.n_embd}",
            **({"added to each embedding": "; ".join(added)} if added else {}),
            "heads": f"{c.n_head}, which share {c.n_kv_head} key/value heads",
            "attention window per layer": " ".join(map(str, c.windows)),
            "training sequence length": f"{c.sequence_len:,} tokens; a text may be longer",
            "vocabulary": f"{c.vocab_size:,} tokens",
        }
        return ["## Model", "", *table(rows)]

    def training_section(self) -> list[str]:
        if not self.training:
            return ["## Training", "", f"Step {self.step:,}. Nothing else is known: the exported file has no record of its training."]
        t, latest = from_dict(TrainConfig, self.training["train_config"]), self.training["metrics"].get("latest", {})
        tokens, train_tokens = self.training["tokens_seen"], self.training["data"].get("train_tokens")
        sequences, on_average = counted(t.sequences_per_update, "conversation" if self.is_chat else "sequence"), " on average" * self.is_chat
        by_muon = "matrices of the blocks" + ", gate of the smear" * self.config.smear
        rows = {
            "step": f"{self.step:,} of {t.steps:,} ({self.step // t.gradient_accumulation_steps:,} of {t.updates:,} updates)",
            "tokens seen": f"{tokens:,}" + (f": the {train_tokens:,} of the data {tokens / train_tokens:.2f} times" if train_tokens else ""),
            "bits per byte": figure(latest, "val_bpb", "on held-out documents, at the last evaluation"),
            "validation loss": figure(latest, "val_loss", "nats per token"),
            "training loss": figure(latest, "loss", "nats per token"),
            **({} if self.is_chat else {"preset": f"`{self.training['preset']}`"}),  # finetune.py has a recipe of its own
            "update": f"{sequences} of {t.sequence_len:,} tokens{on_average}: {t.tokens_per_update:,} tokens",
            by_muon: f"Muon, learning rate {t.muon_lr:g}, momentum {t.muon_momentum:g}, second moment {t.muon_beta2:g}",
            "all other weights": f"AdamW, betas {t.adamw_beta1:g} ({X0_LAMBDA_BETA1:g} for x0_lambdas) and {t.adamw_beta2:g}; "
            f"learning rates at width 768: {self.table_learning_rates(t)}; "
            f"scalars {t.adamw_scalar_lr:g}",
            **({"shared updates": f"by tokens that have character n-grams in common, {t.ngram_buckets:,} buckets"} if t.ngram_buckets else {}),
            "schedule": t.schedule_text,
            "weight decay, clipping": f"{t.weight_decay:g}, {t.grad_clip:g}",
            "seed": str(t.seed),
        }
        return ["## Training", "", *table(rows)]

    def table_learning_rates(self, t: TrainConfig) -> str:
        """Return the learning rates of the tables that the model has."""
        tables = {"wte": t.adamw_embedding_lr, "value embeddings": t.adamw_value_embedding_lr, "lm_head": t.adamw_unembedding_lr}
        if self.config.tie_embeddings:
            tables = {"wte and lm_head": t.adamw_tied_lr, "value embeddings": t.adamw_value_embedding_lr}
        if not self.config.value_embeddings:
            del tables["value embeddings"]
        return ", ".join(f"{name} {lr:g}" for name, lr in tables.items())

    def sources(self) -> list[dict[str, str]]:
        """Return the entries `source`, `licence`, `revision` and, if there are several, `documents`
        of each source that has text."""
        several: list[dict[str, str]] = []
        while (source := self.data.get(f"source_{len(several) + 1}")) is not None:
            prefix = f"source_{len(several) + 1}_"
            several.append({"source": source} | {key.removeprefix(prefix): self.data[key] for key in self.data if key.startswith(prefix)})
        return [source for source in several if source["documents"] != "0"] or [self.data] * ("source" in self.data)

    def data_section(self) -> list[str]:
        if folders := self.training and self.training["data"].get("sources"):
            return ["## Data", "", f"A mixture of {len(folders)} folders. Their sources and licences are not known to the export."]
        sources = self.sources()
        if not sources:
            return ["## Data", "", "Source and licence are not known: the export was made without the folder of the training data."]
        train, val = (int(self.data[f"{split}_documents"]) for split in ("train", "val"))
        noun, size = "conversation" if self.is_chat else "document", f"{int(self.data['train_bytes']) / 1e6:,.2f} MB of text"
        if len(sources) == 1:
            total = f"{counted(train, noun)}, {size} in the training split."
            return ["## Data", "", described(sources[0]), total, "", f"Licence: {licence(sources[0])}."]
        rows = [f"- {described(source)} {counted(int(source['documents']), noun)}. Licence: {licence(source)}." for source in sources]
        return ["## Data", "", *rows, "", f"Together: {counted(train + val, noun)}, of which {train:,} with {size} are in the training split."]

    def tokenizer_section(self) -> list[str]:
        recorded = self.training.get("tokenizer", {}).get("name")  # older versions recorded none
        name = recorded or self.data.get("tokenizer")
        if self.has_base and PurePath(name or "tokenizer").name == "tokenizer":  # the copy in the base model's folder
            words = "The tokenizer of the base model. Its source and licence are not named here: see the card of the base model."
        elif name is None:
            words = "Its source and licence are not known: the export was made without the folder of the training data."
        elif name.startswith("trained on the corpus"):
            words = f"It was {name.replace(', ', ' of the base model (' if self.has_base else ' (')}) and has no other source."
        elif name == SARVAM:
            words = f"[{SARVAM}]({SARVAM_PAGE}) by Sarvam AI. It has its own licence, which is on that page: read it before you share this folder."
        else:
            name = PurePath(name).name if PurePath(name).is_absolute() else name  # a local path is private
            words = f"`{name}`. Its licence is not known here: look it up at its source before you share this folder."
        return ["## Tokenizer", "", words]


def described(source: dict[str, str]) -> str:
    """Return a sentence about one source of the text."""
    name = source["source"]
    if found := HUB_SOURCE.fullmatch(name):
        dataset, files = found.groups()
        which, maker = f"`{files}` of " if files else "", f" by {MAKERS[dataset]}" if dataset in MAKERS else ""
        revision = f", revision {source['revision']}" if "revision" in source else ""
        return f"{which}[{dataset}](https://huggingface.co/datasets/{dataset}){maker}{revision}."
    if name.startswith("sample, "):
        return f"Stories generated by a program of the nano_hindi project ({name})."
    return f"Files of the model's maker: {', '.join(PurePath(path).name for path in name.split(', '))}."


def licence(source: dict[str, str]) -> str:
    known = source.get("licence", "not known")  # data/chat.py writes `not known: FILE`
    return "not known; ask the maker of this model" if known.startswith("not known") else known


def usage(path: str, format: str = "transformers", is_chat: bool = False, program: str = "python examples/onnx_generate.py") -> list[str]:
    """Return how to generate a text, or an answer, with the model in the folder `path`: Python
    code, or for ONNX a command that runs `program`."""
    text = "यह कहानी किसकी है?" if is_chat else "एक समय की बात है"
    if format == "onnx":
        return [f'{program} {shell_quoted(Path(path))} "{text}"']
    prompt = f'tokenizer("{text}", return_tensors="pt")'
    if is_chat:
        messages = f'[{{"role": "user", "content": "{text}"}}]'
        prompt = f'tokenizer.apply_chat_template({messages}, add_generation_prompt=True, return_tensors="pt", return_dict=True)'
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"tokenizer, model = (auto.from_pretrained({json.dumps(path, ensure_ascii=False)}, trust_remote_code=True) for auto in (AutoTokenizer, AutoModelForCausalLM))",
        f"print(tokenizer.decode(model.generate(**{prompt})[0], skip_special_tokens=True))",
    ]


def table(rows: dict[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def figure(latest: dict, key: str, unit: str) -> str:
    return f"{latest[key]:.4f} {unit}" if key in latest else "not known"


def data_metadata(data_dir: Path, training: dict) -> dict[str, str]:
    """Return preprocess_meta.txt of `data_dir`, and the source of the text from raw/metadata.txt.
    Each is used only if it describes the checkpoint's data."""
    prepared, raw = data_dir / METADATA, data_dir / "raw" / "metadata.txt"
    if not (training and prepared.is_file()):
        return {}
    metadata = read_metadata(prepared)
    known = {"fingerprint": training["tokenizer"].get("fingerprint"), **training["data"]}
    if any(metadata.get(key, "") != str(value) for key, value in known.items()):  # an older version wrote no digests
        return {}
    of_text = read_metadata(raw) if raw.is_file() else {}
    documents = int(metadata["train_documents"]) + int(metadata["val_documents"])
    if of_text.get("documents") == str(documents) and of_text.get("words") == metadata.get("words"):
        metadata |= {key: of_text[key] for key in of_text if key in ("source", "licence", "revision") or key.startswith("source_")}
    return metadata
