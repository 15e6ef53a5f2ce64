"""Data frames as small HTML tables that read well on a phone, with the frame itself as CSV beside them."""

from dataclasses import dataclass

DATA = "book_data"  # in the metadata of the cell's output: what is drawn has lost its types and digits


@dataclass(frozen=True)
class Table:
    """A table as it is shown, and its numbers as they are."""

    markup: str
    csv: str

    def _repr_mimebundle_(self, **_):
        return {"text/html": self.markup, "text/plain": self.csv}, {DATA: self.csv}


def table(frame, digits=None):
    """Frame as a table without its index.

    `digits`: column -> decimals, or a format such as ".2e"; other floats get 4 significant digits.
    """
    digits = digits or {}
    unknown = set(digits) - set(frame.columns)
    if unknown:
        raise ValueError(f"no such column: {', '.join(map(str, sorted(unknown)))}; there are {list(frame.columns)}")
    formats = {c: f".{d}f" if isinstance(d, int) else d for c, d in digits.items()}

    def writer(form):
        return lambda value: "" if value != value else format(value, form)

    columns = {c: writer(form) for c, form in formats.items()}
    markup = frame.to_html(
        index=False, border=0, classes="book-table", formatters=columns, float_format=writer(".4g"), na_rep=""
    )
    return Table(f'<div class="book-table-box" tabindex="0">{markup}</div>', frame.to_csv(index=False))
