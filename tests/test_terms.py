"""Words of the glossary: linked where a page first uses them, with their definition, and each in use."""

import re
from html.parser import HTMLParser

import pytest

from tests.conftest import run

GLOSSARY = """# Words

```{glossary}
rank
  How many rows are independent.

  More on it.
rank correlation
  A correlation of ranks.
nat
nit
  A unit.
KL
  A divergence.
```
"""
PAGE = """# Rank of a title

The low-rank `rank` of [rank](words.md). Rank correlation, in nats; a nat and a *rank*, KL and kl.

A rank again. {term}`Nats <nit>` by hand.
"""


class Terms(HTMLParser):
    """Links of a page to the glossary: text, anchor, definition."""

    def __init__(self, path):
        super().__init__()
        self.links, self.open = [], False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "a" and "term" in attrs.get("class", "").split():
            self.links.append(["", attrs["href"].partition("#")[2], attrs["title"]])
            self.open = True

    def handle_data(self, data):
        if self.open:
            self.links[-1][0] += data
            self.open = False


@pytest.fixture
def page(tmp_path):
    """Terms of a small page beside a small glossary."""
    (tmp_path / "words.md").write_text(GLOSSARY)
    (tmp_path / "index.md").write_text(PAGE + "\n```{toctree}\nwords\n```\n")
    (tmp_path / "conf.py").write_text('extensions, html_theme = ["myst_parser", "lib.show.terms"], "basic"\n')
    run("sphinx", "-q", tmp_path, tmp_path / "out")  # in a process of its own: Sphinx keeps what others registered
    return Terms(tmp_path / "out" / "index.html")


def test_the_first_use_of_a_word_in_prose_shows_its_definition(page):
    assert [(text, title) for text, _, title in page.links] == [
        ("Rank correlation", "A correlation of ranks."),
        ("nats", "A unit."),
        ("rank", "How many rows are independent."),
        ("KL", "A divergence."),
        ("Nats", "A unit."),
    ]


def test_every_word_of_the_glossary_is_used_and_every_use_is_defined(book):
    links = [link for path in (book / "html").glob("*.html") for link in Terms(path).links]
    glossary = (book / "html" / "notation.html").read_text()
    groups = re.findall(r"(?:<dt id=.*?</dt>\s*)+<dd>", glossary, re.S)  # the synonyms of one definition
    entries = [set(re.findall(r'id="(term-[^"]+)"', group)) for group in groups]
    used = {anchor for _, anchor, _ in links}
    assert entries and all(text and title for text, _, title in links)
    assert used <= set().union(*entries)
    assert [entry for entry in entries if not entry & used] == []
