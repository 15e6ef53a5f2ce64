"""Texts of the reader's own as documents: a folder, a .txt, a .jsonl or a .parquet, named by their path.

`./notes` holds one document in each file; `./notes.jsonl` and `./notes.parquet` one in each row, in the field `text`
or in another, as in `./notes.jsonl#body`. A single .txt is cut at form feeds, at `<|endoftext|>` and where two lines or
more are blank; without any of these, into stretches of whole paragraphs.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

TEXTS = (".txt", ".md", ".rst", ".text")
ROWS = (".jsonl", ".ndjson", ".parquet")
FIELD = "text"
ENDS = re.compile(r"\f|<\|endoftext\|>|\n[ \t]*\n[ \t]*\n\s*")
STRETCH = 2_000  # characters, at least, of the documents of a text that is not divided
CHUNK = 1_000  # rows read at once


def is_path(name: str) -> bool:
    """Whether a corpus is named by a path: it begins with `.`, `/` or `~`, or ends as a file that can be read."""
    return name.startswith((".", "/", "~")) or _parts(name)[0].suffix.lower() in (*TEXTS, *ROWS)


def contents(name: str) -> list[str]:
    """What the documents are made of: the field and, of each file, its name in its folder and a hash of its bytes.

    Raises ValueError where there is nothing that can be read.
    """
    path, field = _parts(name)
    files = _files(path)
    about = [str(file.relative_to(path)) if path.is_dir() else file.suffix for file in files]
    return [field, *about, *(_hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)]


def read(name: str) -> Iterator[tuple[str, str]]:
    """Documents (id, text); ids count them, within their file of a folder. Raises ValueError with one sentence."""
    path, field = _parts(name)
    for file in _files(path):
        if file.suffix.lower() == ".parquet":
            found = _parquet(file, field)
        elif file.suffix.lower() in ROWS:
            found = _json_lines(file, field)
        else:
            found = [_text(file)] if path.is_dir() else _divided(_text(file))
        before = f"{file.relative_to(path)}:" if path.is_dir() else ""
        yield from ((f"{before}{number}", text) for number, text in enumerate(found, 1))


def _parts(name):
    """Path and field of a name; a file whose own name holds a `#` is itself."""
    whole = Path(name).expanduser()
    before, mark, field = name.rpartition("#")
    return (Path(before).expanduser(), field) if mark and field and not whole.exists() else (whole, FIELD)


def _files(path):
    known = (*TEXTS, *ROWS)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not files:
            raise ValueError(f"the folder {path} holds no text: expected files that end in {', '.join(known)}")
        return files
    if not path.is_file():
        raise ValueError(f"there is no text at {path}: expected a folder, or a file that ends in {', '.join(known)}")
    if path.suffix.lower() not in known:
        end = path.suffix or "no suffix"
        raise ValueError(f"{path} ends in {end}: expected a folder, or a file that ends in {', '.join(known)}")
    return [path]


@functools.lru_cache(maxsize=4096)
def _hash(file, size, modified):
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _text(file):
    content = file.read_bytes()
    try:
        if b"\0" in content:
            raise UnicodeError
        return content.decode("utf-8-sig")
    except UnicodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: expected plain text; convert it, or take it away") from error


def _divided(text):
    text = text.replace("\r\n", "\n")
    parts = [part for part in ENDS.split(text) if part.strip()]
    if len(parts) > 1:
        return parts
    documents, stretch = [], []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        stretch.append(paragraph)
        if sum(map(len, stretch)) >= STRETCH:
            documents.append("\n\n".join(stretch))
            stretch = []
    return [*documents, "\n\n".join(stretch)] if stretch else documents


def _json_lines(file, field):
    _text(file)
    try:
        for rows in pd.read_json(file, lines=True, dtype=False, chunksize=CHUNK):
            if field not in rows:
                raise _lacks(file, field, rows.columns)
            yield from _strings(rows[field], file, field)
    except (ValueError, AttributeError, TypeError) as error:
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
            if line.strip() and not _is_object(line):
                raise ValueError(f"line {number} of {file} is no JSON object: mend or remove it") from error
        raise


def _is_object(line):
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _parquet(file, field):
    try:
        opened = parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is no whole Parquet file: copy it again") from error
    with opened:
        if field not in opened.schema_arrow.names:
            raise _lacks(file, field, opened.schema_arrow.names)
        for batch in opened.iter_batches(CHUNK, columns=[field]):
            yield from _strings(batch[0].to_pandas(), file, field)


def _strings(cells, file, field):
    for cell in cells:
        if not isinstance(cell, str) and pd.notna(cell) is not False:
            raise ValueError(f"the field {field!r} of {file} holds {type(cell).__name__}: expected text; name another")
        yield cell if isinstance(cell, str) else ""


def _lacks(file, field, names):
    there = ", ".join(map(str, names))
    return ValueError(f"{file} has no field {field!r}: expected one of {there}; name it as in {file.name}#{names[0]}")
