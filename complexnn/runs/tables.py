"""Tables of text, and their three looks: columns, Markdown, HTML."""

from __future__ import annotations

import html
import io
import re
import textwrap
from dataclasses import dataclass
from typing import TextIO

NOTE_WIDTH = 120  # of notes in a terminal
LONG = 64  # characters of a cell that may be broken into lines on a page


def escape_what_cannot_be_shown(stream: TextIO) -> None:
    """Let a stream write what its encoding lacks, such as γ on a terminal that is not UTF-8, as
    ``\\u03b3`` instead of failing at the end of a command. Files are UTF-8 everywhere."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
        stream.reconfigure(errors="backslashreplace")


@dataclass(frozen=True)
class Table:
    """A title, a head, rows of cells, and what a reader must know beside them: a paragraph for each
    line of the note."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""

    def as_text(self) -> str:
        """The table in columns."""
        table = [self.head, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table]
        note = [textwrap.fill(text, NOTE_WIDTH, break_on_hyphens=False) for text in self._note()]
        return "\n".join([self.title, *(line.rstrip() for line in lines), *note])

    def as_markdown(self) -> str:
        """The table as GitHub shows it."""
        table = [self.head, ("---",) * len(self.head), *self.rows]
        lines = [f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in table]
        note = ["\n\n".join(self._note())] if self.note else []
        return "\n".join([f"### {self.title}", "", *lines, "", *note])

    def as_html(self) -> str:
        """The table with its title, to be put into a :func:`page`."""

        def line(tag: str, row: tuple[str, ...]) -> str:
            wraps = [' class="long"' if len(c) > LONG and tag == "td" else "" for c in row]
            cells = zip(row, wraps, strict=True)
            return f"<tr>{''.join(f'<{tag}{w}>{_cell(c)}</{tag}>' for c, w in cells)}</tr>"

        body = "\n".join(line("td", row) for row in self.rows)
        note = "".join(f"<p>{_marked(text)}</p>" for text in self._note())
        table = f"<table>\n{line('th', self.head)}\n{body}\n</table>"
        return f"<h2>{html.escape(self.title)}</h2>\n{table}\n{note}"

    def _note(self) -> list[str]:
        return self.note.split("\n") if self.note else []


def percent(share: dict[str, float]) -> str:
    """A share and its interval, in %: ``9.2 [8.7, 9.8]``."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share[k] for k in ("value", "low", "high")))


def _cell(text: str) -> str:
    """A cell's text as HTML; `code` as Markdown marks it."""
    if len(text) > 1 and text[0] == text[-1] == "`":
        return f"<code>{html.escape(text[1:-1])}</code>"
    return html.escape(text)


def _marked(text: str) -> str:
    """A note as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def page(title: str, parts: list[str]) -> str:
    """A self-contained HTML page of finished parts."""
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 92rem; margin: 2rem auto }}
h2 {{ font-size: 1.1rem; margin-top: 2rem }}
p {{ max-width: 60rem; margin: .5rem 0 }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }}
th, td {{ text-align: left; padding: .3rem .7rem; border-bottom: 1px solid #ccc }}
td {{ white-space: pre }}
td.long {{ white-space: normal; min-width: 20rem }}
img {{ max-width: 100% }}
</style>
<h1>{html.escape(title)}</h1>
{body}
</html>
"""
