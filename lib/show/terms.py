"""Definitions where words are read: the first use of each word of the glossary on a page links to it.

The link has the definition as its `title`, which a browser shows without a script, and `paper.css` to the keyboard.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from docutils import nodes
from sphinx import addnodes

# Where a word is no prose, or stands in a link already.
CODE = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
SKIPPED = (*CODE, nodes.reference, nodes.title, nodes.citation)


@dataclass(frozen=True)
class Glossary:
    """The words of a book's glossaries, synonyms with one entry: word -> (page, anchor), and anchor -> definition."""

    words: dict[str, tuple[str, str]]
    meanings: dict[str, str]

    @cached_property
    def pattern(self):
        """Any of the words, whole, the longest first, with a capital or without, with a plural s or without."""
        longest = sorted(self.words, key=len, reverse=True)
        either = [f"[{w[0].upper()}{w[0]}]{re.escape(w[1:])}" if w[0].islower() else re.escape(w) for w in longest]
        return re.compile(rf"(?<![\w-])(?:{'|'.join(either)})s?(?![\w-])")

    def of(self, found):
        """Page and anchor of a word as it stands in a text."""
        plain = found[0].lower() + found[1:]
        forms = (found, plain, found.removesuffix("s"), plain.removesuffix("s"))
        return next(self.words[form] for form in forms if form in self.words)


def glossary(env):
    """The glossary of a book, from the pages in which Sphinx found its terms."""
    words, meanings = {}, {}
    for page in sorted(_pages(env)):
        for entry in (e for g in env.get_doctree(page).findall(addnodes.glossary) for e in g.findall(_is_entry)):
            *terms, definition = entry.children
            words |= {term.astext(): (page, terms[0]["ids"][0]) for term in terms}
            meanings |= dict.fromkeys((term["ids"][0] for term in terms), definition[0].astext().replace("\n", " "))
    return Glossary(words, meanings)


def define(app, doctree, docname):
    """Link the first use of each word on a page, and give the links that `{term}` made their definitions."""
    known = glossary(app.env)
    if not known.words or docname in _pages(app.env):
        return
    for link in doctree.findall(nodes.reference):
        if any("std-term" in part["classes"] for part in link.findall(nodes.inline)):
            link.update_basic_atts({"classes": ["term"]})
            link["reftitle"] = known.meanings[link["refuri"].partition("#")[2]]
    seen = set()
    for text in [text for text in doctree.findall(nodes.Text) if not _within(text, SKIPPED)]:
        pieces, at = [], 0
        for match in known.pattern.finditer(text):
            page, anchor = known.of(match[0])
            if anchor in seen:
                continue
            seen.add(anchor)
            address = f"{app.builder.get_relative_uri(docname, page)}#{anchor}"
            title = known.meanings[anchor]
            link = nodes.reference("", match[0], internal=True, refuri=address, reftitle=title, classes=["term"])
            pieces += [nodes.Text(text[at : match.start()]), link]
            at = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(text[at:])])


def outdated(app, env, added, changed, removed):
    """All pages, where one that holds a glossary has changed: they show its definitions."""
    return sorted(env.found_docs) if _pages(env) & (added | changed | removed) else []


def _pages(env):
    return {page for _, _, kind, page, _, _ in env.get_domain("std").get_objects() if kind == "term"}


def _is_entry(node):
    return isinstance(node, nodes.definition_list_item)


def _within(node, kinds):
    while (node := node.parent) is not None:
        if isinstance(node, kinds):
            return True
    return False


def setup(app):
    """Register with Sphinx."""
    app.connect("doctree-resolved", define)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
