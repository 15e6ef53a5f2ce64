"""From the members of an archive to clean documents: one reader for each packaged corpus."""

import bz2
import gzip
import html
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as parquet

Documents = Iterator[tuple[str, str]]  # (id, text)

LEAST = 60  # characters of an interface description worth keeping


def wiki(language: str) -> Callable[[Path], Documents]:
    """Reader of article introductions in one language."""

    def read(folder: Path) -> Documents:
        (file,) = folder.rglob(f"summaries_{language}-*.json")
        for title, article in json.loads(file.read_text(encoding="utf-8")).items():
            yield title, article["extract"]

    return read


def shakespeare_milton(folder: Path) -> Documents:
    """One document for each edition, without the line numbers of the verse."""
    for file in sorted(folder.rglob("*_gut.txt")):
        text = file.read_text(encoding="utf-8", errors="replace")
        yield file.stem.removesuffix("_gut"), re.sub(r"[ \t]{2,}\d+[ \t]*$", "", text, flags=re.MULTILINE)


def aws_docs(folder: Path) -> Documents:
    """One document for each service: its descriptions, in file order."""
    for file in sorted(folder.rglob("service-2.json.gz")):
        described = _described(json.loads(gzip.decompress(file.read_bytes())), "documentation")
        yield "/".join(file.parts[-3:-1]), "\n\n".join(map(_without_tags, described))


def google_docs(folder: Path) -> Documents:
    """One document for each interface: its descriptions, in file order."""
    for file in sorted(folder.rglob("*.json")):
        described = _described(json.loads(file.read_text(encoding="utf-8")), "description")
        yield file.stem, "\n\n".join(map(_without_tags, described))


def django_docs(folder: Path) -> Documents:
    """One document for each page of the manual, as plain text."""
    for file in sorted((folder / "django-5.2.19").rglob("*.txt")):
        yield str(file.relative_to(folder / "django-5.2.19" / "docs").with_suffix("")), _without_rst(file.read_text())


def gensim_wiki(folder: Path) -> Documents:
    """One document for each article that is not a redirection; the two dumps share one."""
    titles = set()
    for file in sorted(folder.rglob("*.bz2")):
        # The dump was cut at an article's end, so its closing tag may be missing.
        pages = re.findall(r"<page>.*?</page>", bz2.decompress(file.read_bytes()).decode("utf-8"), re.DOTALL)
        for page in map(ElementTree.fromstring, pages):
            title, text = page.findtext("title"), page.findtext("revision/text") or ""
            if title not in titles and not text.lower().startswith("#redirect"):
                titles.add(title)
                yield title, _without_wikitext(text)


def korean_speeches(folder: Path) -> Documents:
    """One document for each speech."""
    (file,) = folder.rglob("*.parquet")
    for number, text in enumerate(parquet.read_table(file, columns=["speech_text"])["speech_text"].to_pylist()):
        yield str(number), text or ""


READERS: dict[str, tuple[str, Callable[[Path], Documents]]] = {  # corpus -> source, reader
    "wiki-en": ("wiki", wiki("en")),
    "wiki-fr": ("wiki", wiki("fr")),
    "wiki-es": ("wiki", wiki("es")),
    "shakespeare-milton": ("shakespeare-milton", shakespeare_milton),
    "aws-docs": ("aws-docs", aws_docs),
    "google-docs": ("google-docs", google_docs),
    "django-docs": ("django-docs", django_docs),
    "gensim-wiki": ("gensim-wiki", gensim_wiki),
    "korean-speeches": ("korean-speeches", korean_speeches),
}


def unique(documents: Documents) -> Documents:
    """Drop every paragraph seen before in the corpus, so that no text is in both splits; drop empty documents.

    Paragraphs under 60 characters stay: repeating `Exit.` is the language, not a copy.
    """
    seen: set[int] = set()
    for name, text in documents:
        kept = []
        for paragraph in re.split(r"\n[ \t]*\n\s*", text.replace("\r\n", "\n").strip()):
            paragraph = paragraph.rstrip()
            if len(paragraph) < LEAST or hash(paragraph) not in seen:
                kept.append(paragraph)
            seen.add(hash(paragraph))
        if cleaned := "\n\n".join(kept).strip():
            yield name, cleaned


def _described(node: object, key: str) -> Iterator[str]:
    """Every string under the key, at any depth, that is long enough to be prose."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                if len(value) > LEAST:
                    yield value
            else:
                yield from _described(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _described(value, key)


def _without_tags(text: str) -> str:
    text = re.sub(r"</?(p|li|ul|ol|dl|dt|dd|div|br|h\d|note|important)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[a-zA-Z/!][^>]*>", "", text))
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[ \t]+", " ", text)).strip()


def _without_rst(text: str) -> str:
    text = re.sub(r"^\.\. (_|index).*$", "", text, flags=re.MULTILINE)  # link targets
    text = re.sub(r"^\s*\.\. ([\w-]+):: *", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*:[\w-]+:.*$", "", text, flags=re.MULTILINE)  # options of directives
    text = re.sub(r"^([=\-~*^\"'#+.])\1{2,}$", "", text, flags=re.MULTILINE)  # underlines of titles
    text = re.sub(r":[\w:-]+:`!?~?([^`<]*?)\s*(<[^`]*>)?`", r"\1", text)
    text = re.sub(r"`+([^`<]*?)\s*(<[^`]*>)?`+_*", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text)


def _without_wikitext(text: str) -> str:
    text = re.sub(r"<!--.*?-->|<(ref|math|gallery|timeline|code)\b[^>]*?(/>|>.*?</\1>)", "", text, flags=re.DOTALL)
    for inner in (r"\{\{[^{}]*\}\}", r"\{\|[^{}]*?\|\}"):  # templates nest, tables hold templates
        count = 1
        while count:
            text, count = re.subn(inner, "", text)
    text = re.sub(r"\[\[(?:File|Image|Category):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"'{2,}|</?[a-zA-Z][^>]*>", "", text)
    text = re.sub(r"^=+ *(.*?) *=+ *$", r"\n\1\n", text, flags=re.MULTILINE)
    text = re.sub(r"^[*#:;]+ *", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", html.unescape(text))
