"""Show on one page what `--clean` changed: the counts of each rule, and three examples."""

from __future__ import annotations

import html

from nano_hindi.common import common_prefix_length, visible
from nano_hindi.corpus.cleaning import Cleaner, Count

STYLE = """
body { font: 17px/1.9 "Nirmala UI", "Noto Sans Devanagari", "Kohinoor Devanagari", Mangal, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }
td, th { padding: .2em 1em; text-align: left; vertical-align: top; overflow-wrap: anywhere; } .number { text-align: right; }
table.examples td { border: 1px solid #bbb; width: 50%; } mark { background: #fff3c4; } .escaped { color: #a00; font-size: 70%; }
"""


def page(cleaner: Cleaner, kept: Count) -> str:
    """Return the page as HTML. `kept` is the corpus."""
    columns = "".join(f"<th>{title}</th>" for title in ("rule", "documents", "bytes removed", "documents left", "bytes left"))
    rows = "\n".join(
        f"<tr><td>{rule}</td>" + "".join(f"<td class='number'>{x:,}</td>" for x in (n.documents, n.bytes, left.documents, left.bytes)) + "</tr>"
        for rule, n, left in cleaner.steps(kept)
    )
    examples = "\n".join(_examples(rule, cleaner.examples[rule]) for rule in cleaner.counts if rule in cleaner.examples)
    return f"""<!DOCTYPE html>
<html lang="hi"><head><meta charset="utf-8"><title>nano_hindi: what was cleaned</title><style>{STYLE}</style></head><body>
<h1>What was cleaned</h1>
<table><tr>{columns}</tr>
{rows}
</table>
<p>The first examples of each rule, before and after it; of a dropped document, its beginning. Characters without a glyph are
<span class="escaped">escaped</span>.</p>
{examples}
</body></html>
"""


def _examples(rule: str, examples: list[list[str]]) -> str:
    rows = "\n".join(f"<tr><td>{before}</td><td>{after}</td></tr>" for before, after in (_marked(*example) for example in examples))
    return f"<h2>{rule}</h2>\n<table class='examples'>\n{rows}\n</table>"


def _marked(before: str, after: str) -> tuple[str, str]:
    """Return an example as HTML, with the first word that differs marked."""
    if not after:
        return _shown(before), "<i>dropped</i>"
    same = common_prefix_length(before, after)
    begin = max(before.rfind(" ", 0, same), before.rfind("\n", 0, same)) + 1
    return _with_mark(before, begin), _with_mark(after, begin)


def _with_mark(text: str, begin: int) -> str:
    word = text[begin:].split(maxsplit=1)
    end = text.index(word[0], begin) + len(word[0]) if word else begin
    return f"{_shown(text[:begin])}<mark>{_shown(text[begin:end])}</mark>{_shown(text[end:])}"


def _shown(text: str) -> str:
    joiners = {"\u200c": "ZWNJ", "\u200d": "ZWJ"}
    escaped = html.escape(visible(text)).replace("\n", "<br>")
    for joiner, name in joiners.items():
        escaped = escaped.replace(joiner, f"{joiner}<span class='escaped'>{name}</span>")
    return escaped
