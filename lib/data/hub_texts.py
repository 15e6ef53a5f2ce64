"""The paper's corpora from the hub, each pinned to the commit that its name meant on first use."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from datasets import load_dataset

from lib.data import hub


@dataclass(frozen=True)
class HubText:
    """Where a corpus is on the hub, and how much of it to take."""

    repository: str
    configuration: str | None
    sample: int | None = None  # documents drawn by streaming, of those too large to download; None: all
    lines: bool = False  # rows are lines, to be joined to articles


READERS = {
    "hub:wikitext": HubText("Salesforce/wikitext", "wikitext-103-raw-v1", lines=True),
    "hub:imdb": HubText("stanfordnlp/imdb", None),
    "hub:pile": HubText("EleutherAI/the_pile_deduplicated", None, sample=20_000),
}
BUFFER = 1_000  # documents among which a streamed one is drawn; whole shards are drawn first


def pinned(name: str) -> str:
    """The commit of a corpus: resolved on first use, then recorded."""
    return hub.commit(READERS[name].repository, kind="dataset")


def read(name: str) -> Iterator[tuple[str, str]]:
    """Documents (id, text) of the training split. Raises ValueError or ConnectionError with one sentence."""
    where = READERS[name]
    with hub.explained(where.repository):
        rows = load_dataset(
            where.repository,
            where.configuration,
            split="train",
            revision=pinned(name),
            streaming=where.sample is not None,
        )
        if where.sample is not None:
            rows = islice(rows.shuffle(seed=0, buffer_size=BUFFER), where.sample)
        texts = (row["text"] for row in rows)
        yield from ((str(number), text) for number, text in enumerate(articles(texts) if where.lines else texts))


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Lines of WikiText joined to articles, each of which begins with a line ` = Title = `."""
    article: list[str] = []
    for line in lines:
        if re.fullmatch(r" = [^=].*[^=] = \n?", line) and article:
            yield "".join(article)
            article = []
        article.append(line)
    if article:
        yield "".join(article)
