"""Data frames as small HTML tables that read well on a phone, with the frame itself as CSV beside them.

Headings are in words: `headings.toml` says how a column is called, with its unit; other underscores become spaces.
"""

import html
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

DATA = "book_data"  # in the metadata of the cell's output: what is drawn has lost its types and digits
HEADINGS = tomllib.loads(Path(__file__).with_name("headings.toml").read_text())
SHOWN, FOLDED = 12, 16  # rows before the fold, and how many a table needs to have one


@dataclass(frozen=True)
class Table:
    """A table as it is shown, and its numbers as they are."""

    markup: str
    csv: str

    def _repr_mimebundle_(self, **_):
        return {"text/html": self.markup, "text/plain": self.csv}, {DATA: self.csv}


def table(frame: pd.DataFrame, digits: dict | None = None) -> Table:
    """Frame as a table without its index; words that repeat those above are left out, and a long table is folded.

    `digits`: column -> decimals, or a format such as ".2e"; other floats get 4 significant digits.
    """
    digits = digits or {}
    unknown = set(digits) - set(frame.columns)
    if unknown:
        raise ValueError(f"no such column: {', '.join(map(str, sorted(unknown)))}; there are {list(frame.columns)}")
    forms = {c: f".{d}f" if isinstance(d, int) else d for c, d in digits.items()}
    parts = [frame] if len(frame) < FOLDED else [frame[:SHOWN], frame[SHOWN:]]
    markup = _html(parts[0], forms)
    if len(parts) > 1:
        markup += f"<details><summary>{len(parts[1])} rows more</summary>{_html(parts[1], forms)}</details>"
    return Table(markup, frame.to_csv(index=False))


def _html(frame, forms):
    shown = _once(frame)
    words = [not pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    head = "".join(f'<th scope="col">{html.escape(_heading(column))}</th>' for column in frame)
    rows = ""
    for row in shown.itertuples(index=False, name=None):
        cells = zip(frame, words, row, strict=True)
        rows += "<tr>" + "".join(_cell(value, forms.get(column), word) for column, word, value in cells) + "</tr>"
    table = f'<table class="book-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="book-table-box" tabindex="0">{table}</div>'


def _cell(value, form, word):
    if pd.api.types.is_scalar(value) and pd.isna(value):
        text = ""
    elif form:
        text = format(value, form)
    else:
        text = _number(value) if pd.api.types.is_float(value) else str(value)
    return f'<td class="word">{html.escape(text)}</td>' if word else f"<td>{text}</td>"


def _once(frame):
    """The frame with the words of its first columns left out where they, and all to their left, are those above."""
    shown, same = frame.copy(), pd.Series(True, index=frame.index)
    for column in frame:
        if pd.api.types.is_numeric_dtype(frame[column]):
            break
        same &= frame[column].eq(frame[column].shift())
        shown[column] = frame[column].astype(object).mask(same, "")
    return shown


def _heading(column):
    return HEADINGS.get(column) or str(column).replace("_", " ")


def _number(value):
    return format(value, ",.0f" if abs(value) >= 1e4 else ".4g")
