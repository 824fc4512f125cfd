"""Report on prepared data: four plots, and a page with ten documents as the model sees them and the
longest tokens.

Everything comes from the token files and their tokenizer. Document lengths and token counts cover
all tokens of train.bin, in one pass; words and scripts a sample. The plots contain no Hindi text,
which matplotlib cannot shape; browsers can, so the page is HTML.
"""

from __future__ import annotations

import codecs
import html
import random
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nano_hindi.common import visible
from nano_hindi.console import counted
from nano_hindi.corpus.prepared import READ_IDS, DataInfo, check_data
from nano_hindi.files import replacing, write_text
from nano_hindi.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENGTHS = np.unique(np.geomspace(1, 1e8, 121).astype(np.int64))  # histogram bounds, in tokens
SAMPLED_DOCUMENTS = 2000  # for words and scripts
SHOWN, SHOWN_TOKENS = 10, 2000  # documents on the page, and tokens of each
LONGEST = 50  # tokens in the table on the page
SCRIPTS = ("Devanagari", "Latin", "digits", "other letters", "punctuation and signs")


@dataclass
class Scan:
    """The results of one pass over train.bin."""

    lengths: np.ndarray  # (len(LENGTHS) - 1,) documents in each histogram bin
    uses: np.ndarray  # (vocab_size,) how often each token occurs
    sample: list[list[int]]  # token ids of documents drawn at random
    longest: int  # tokens of the longest document


def report_files(folder: Path) -> list[Path]:
    """Return the files of a report on a folder: the pictures, then the page."""
    return [*(folder / f"report_{name}.png" for name in ("document_lengths", "tokens_per_word", "scripts", "token_lengths")), folder / "report.html"]


def write_report(folder: Path) -> list[Path]:
    """Write the plots and the page into a folder that `data/preprocess.py` prepared; the same for
    the same data.

    Returns their paths.
    """
    info = check_data(folder)
    scan = scan_tokens(info, seed=0)
    tokenizer, texts = info.tokenizer, [info.tokenizer.decode(ids) for ids in scan.sample]
    draws = (
        lambda axes: draw_lengths(axes, scan),
        lambda axes: draw_tokens_per_word(axes, tokenizer, texts),
        lambda axes: draw_scripts(axes, texts),
        lambda axes: draw_token_lengths(axes, tokenizer, scan.uses),
    )
    *pictures, html_file = paths = report_files(folder)
    for path, draw in zip(pictures, draws, strict=True):
        _picture(path, draw)
    write_text(html_file, page(info, scan, [path.name for path in pictures]))
    return paths


def scan_tokens(info: DataInfo, seed: int) -> Scan:
    """Return the document lengths, the token counts and SAMPLED_DOCUMENTS documents of train.bin,
    reading block by block."""
    tokens = info.train
    uses, begins = np.zeros(info.vocab_size, dtype=np.int64), []
    for start in range(0, len(tokens), READ_IDS):
        block = tokens[start : start + READ_IDS]
        uses += np.bincount(block, minlength=info.vocab_size)
        begins.append(start + np.flatnonzero(block == info.bos_id))
    bounds = np.append(np.concatenate(begins), len(tokens))  # document i: tokens bounds[i] to bounds[i + 1]
    lengths = np.diff(bounds)
    chosen = sorted(random.Random(seed).sample(range(len(lengths)), min(SAMPLED_DOCUMENTS, len(lengths))))
    sample = [tokens[bounds[i] : bounds[i + 1]].tolist() for i in chosen]
    return Scan(np.histogram(lengths, LENGTHS)[0], uses, sample, int(lengths.max()))


# ---- plots


def _picture(path: Path, draw: Callable[[Axes], None]) -> None:
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    draw(axes)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_lengths(axes: Axes, scan: Scan) -> None:
    used = np.flatnonzero(scan.lengths)
    shown = slice(used[0], used[-1] + 1)
    axes.bar(LENGTHS[:-1][shown], scan.lengths[shown], width=np.diff(LENGTHS)[shown], align="edge", edgecolor="white", linewidth=0.3)
    axes.set_xscale("log")
    axes.set_xlabel("tokens in a document, with bos and eos (log scale)")
    axes.set_ylabel("documents")
    axes.set_title(f"Document lengths: {counted(int(scan.lengths.sum()), 'document')} of train.bin, the longest {scan.longest:,} tokens")


def draw_tokens_per_word(axes: Axes, tokenizer: Tokenizer, texts: list[str]) -> None:
    words = Counter(word for text in texts for word in text.split())
    uses = np.array([*words.values()], dtype=np.int64)
    lengths = np.array([len(ids) for ids in tokenizer.encode_batch([*words])], dtype=np.int64)
    counts, total = np.bincount(lengths.clip(max=16), uses, minlength=17), max(1, uses.sum())
    axes.bar(range(1, 17), 100 * counts[1:] / total)
    axes.set_xticks(range(1, 17), [*map(str, range(1, 16)), "16+"])
    axes.set_xlabel("tokens in a word")
    axes.set_ylabel("words (%)")
    axes.set_title(f"Tokens per word: {lengths @ uses / total:.2f} on average, over {total:,} words of {counted(len(texts), 'document')}")


def script_of(character: str) -> str | None:
    """Return one of SCRIPTS; None for spaces and zero-width characters (ZWJ)."""
    kind = unicodedata.category(character)
    if kind in ("Nd", "Nl", "No"):
        return "digits"
    if kind[0] in "LM":
        name = unicodedata.name(character, "")
        return "Devanagari" if name.startswith("DEVANAGARI") else "Latin" if name.startswith("LATIN") else "other letters"
    return "punctuation and signs" if kind[0] in "PS" else None


def draw_scripts(axes: Axes, texts: list[str]) -> None:
    characters = Counter(c for text in texts for c in text)
    counts: Counter[str | None] = Counter()
    for character, number in characters.items():
        counts[script_of(character)] += number
    percentages = [100 * counts[script] / max(sum(counts[s] for s in SCRIPTS), 1) for script in SCRIPTS]
    bars = axes.barh(SCRIPTS[::-1], percentages[::-1])
    axes.bar_label(bars, [f"{percentage:.2f} %" for percentage in percentages[::-1]], padding=3)
    axes.set_xlim(0, 115)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("characters, excluding spaces (%)")
    axes.set_title(f"Scripts: {sum(map(len, texts)):,} characters of {counted(len(texts), 'document')}")


def draw_token_lengths(axes: Axes, tokenizer: Tokenizer, uses: np.ndarray) -> None:
    lengths = np.array([len(text) for text in token_texts(tokenizer)])
    bounds = np.arange(1, max(int(lengths.max()), 2) + 2) - 0.5
    ordinary = lengths > 0
    for weights, label in ((None, "of the vocabulary"), (uses[ordinary], "of the tokens of train.bin")):
        totals = np.histogram(lengths[ordinary], bounds, weights=weights)[0]
        axes.stairs(100 * totals / max(totals.sum(), 1), bounds, fill=True, alpha=0.5, label=label)
    axes.set_xlabel("characters in a token, including its space")
    axes.set_ylabel("tokens (%)")
    axes.legend()
    axes.set_title(f"Token lengths: {int((uses[ordinary] > 0).sum()):,} of {int(ordinary.sum()):,} vocabulary entries are used")


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """Return the text of each token by id, "" for special ones; a token with a part of a
    character's bytes is one U+FFFD."""
    return [raw.decode("utf-8", errors="replace") for raw in tokenizer.piece_bytes]


# ---- the page

STYLE = """
body { font: 17px/1.9 "Nirmala UI", "Noto Sans Devanagari", "Kohinoor Devanagari", Mangal, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
p.document { border: 1px solid #bbb; padding: .6em 1em; overflow-wrap: anywhere; }
.a { background: #fff3c4; } .b { background: #cfe6ff; } .parts { outline: 1px solid #c00; }
.mark { color: #a00; font-size: 70%; } td, th { padding: 0 1em; text-align: left; } img { max-width: 100%; }
"""


def page(info: DataInfo, scan: Scan, pictures: list[str]) -> str:
    """Return the page as HTML: counts, documents with their tokens in two alternating colours, the
    longest tokens."""
    documents = "\n".join(
        f"<h3>{len(ids):,} tokens</h3>\n<p class='document'>{marked(info.tokenizer, ids[:SHOWN_TOKENS])}{' ...' if len(ids) > SHOWN_TOKENS else ''}</p>"
        for ids in random.Random(len(scan.sample)).sample(scan.sample, min(SHOWN, len(scan.sample)))
    )
    texts = token_texts(info.tokenizer)
    longest = sorted((i for i in range(info.vocab_size) if scan.uses[i] and texts[i]), key=lambda i: (-len(texts[i]), i))[:LONGEST]
    rows = "\n".join(f"<tr><td>{html.escape(visible(texts[i]))}</td><td>{len(texts[i])}</td><td>{scan.uses[i]:,}</td></tr>" for i in longest)
    images = "\n".join(f"<p><img src='{name}' alt='{name}'></p>" for name in pictures)
    return f"""<!DOCTYPE html>
<html lang="hi"><head><meta charset="utf-8"><title>nano_hindi: a look at the data</title><style>{STYLE}</style></head><body>
<h1>A look at the data</h1>
<p>{counted(info.train_documents, "document")} and {info.train_tokens:,} tokens for training, {info.val_documents:,} and {info.val_tokens:,} for validation;
tokenizer {html.escape(visible(info.tokenizer.name))}, {info.vocab_size:,} vocabulary entries, {info.fertility:.3f} tokens per word.</p>
<h2>Ten random documents, as the model sees them</h2>
<p>Tokens have <span class="a">two</span><span class="b"> alternating</span><span class="a"> colours</span>; hover over one to see its id.
<span class="a parts">Framed</span>: a character made of several tokens, followed by their number. Small and red: special tokens, tabs and line ends.</p>
{documents}
<h2>The longest tokens in use</h2>
<table><tr><th>token</th><th>characters</th><th>uses</th></tr>
{rows}
</table>
<h2>Plots</h2>
{images}
</body></html>
"""


def marked(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of `ids` as HTML, one span per token; tokens that form one character together
    share a span."""
    spans: list[tuple[list[int], str | None]] = []
    decoder, waiting, text = codecs.getincrementaldecoder("utf-8")(errors="replace"), list[int](), ""
    for i in [*ids, None]:
        plain = None if i in tokenizer.special_ids else i  # None ends a text, perhaps within a character
        text += decoder.decode(b"" if plain is None else tokenizer.piece_bytes[plain], final=plain is None)
        if plain is not None:
            waiting.append(plain)
        if waiting and not decoder.getstate()[0]:  # else the next token has the rest of the character
            spans.append((waiting, text))
            waiting, text = [], ""
        if i is not None and plain is None:
            spans.append(([i], None))
    return "".join(_span(tokenizer, number, numbers, text) for number, (numbers, text) in enumerate(spans))


def _span(tokenizer: Tokenizer, position: int, ids: list[int], text: str | None) -> str:
    title = " ".join(map(str, ids))
    if text is None:
        return f"<span class='mark' title='{title}'>{html.escape(visible(tokenizer.piece(ids[0])))}</span>"
    shown = html.escape(visible(text)).replace("\t", "<span class='mark'>\\t</span>").replace("\n", "<span class='mark'>\\n</span><br>")
    parts = f"<span class='mark'>{len(ids)}</span>" if len(ids) > 1 else ""
    return f"<span class='{'ab'[position % 2]}{' parts' if parts else ''}' title='{title}'>{shown}{parts}</span>"
