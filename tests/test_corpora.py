"""Corpora: clean, unique, split for good, and equal to their tokens."""

import bz2
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lib.data import checkpoints, corpora, sources, texts

PROSE = [name for name in corpora.NAMES if name != "korean-speeches"]  # 45 million tokens: read on demand


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return checkpoints.tokenizer("package:neox-20b")


@pytest.mark.parametrize("name", PROSE)
def test_documents_are_clean_and_split_once(name: str) -> None:
    whole, train, validation = (corpora.documents(name, split) for split in (None, "train", "validation"))
    assert whole.column_names == ["id", "text"]
    assert len(train) + len(validation) == len(whole) and 0 < len(validation) < len(whole) / 5
    assert not set(train["text"]) & set(validation["text"])
    assert all(text == text.strip() and text for text in whole["text"])
    assert len(set(whole["id"])) == len(whole)


@pytest.mark.parametrize(
    ("name", "pattern", "share"),
    [
        ("aws-docs", r"</?[pbi]>|</?code>|&amp;", 0.001),
        ("gensim-wiki", r"\{\{|\[\[|</?ref", 0.01),
        ("django-docs", r":(ref|setting|class):`|^\.\. ", 0.01),
    ],
)
def test_markup_is_gone(name: str, pattern: str, share: float) -> None:
    text = "\n".join(corpora.documents(name)["text"])
    assert len(re.findall(pattern, text, re.MULTILINE)) <= share * text.count("\n")


def test_no_long_paragraph_comes_twice() -> None:
    paragraphs = [part for text in corpora.documents("google-docs")["text"] for part in text.split("\n\n")]
    long = [part for part in paragraphs if len(part) >= texts.LEAST]
    assert len(long) == len(set(long))


def test_copies_are_dropped_and_short_lines_kept() -> None:
    long = "word " * 20
    documents = [("a", f"{long}\n\n[Exit.]\n\n[Exit.]"), ("b", f"{long}\r\n\r\nnew"), ("c", long)]
    assert list(texts.unique(iter(documents))) == [("a", f"{long.strip()}\n\n[Exit.]\n\n[Exit.]"), ("b", "new")]


@pytest.mark.parametrize("name", ["wiki-en", "shakespeare-milton"])
def test_tokens_are_the_documents_each_closed(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokens, offsets = corpora.token_documents(name, tokenizer, "validation")
    assert isinstance(tokens, np.memmap) and offsets[0] == 0 and offsets[-1] == len(tokens)
    documents = corpora.documents(name, "validation")["text"]
    assert len(offsets) == len(documents) + 1
    assert (tokens[offsets[1:] - 1] == tokenizer.eos_token_id).all()
    for number in (0, len(documents) // 2, len(documents) - 1):
        ids = tokens[offsets[number] : offsets[number + 1] - 1]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == documents[number]
    assert np.array_equal(tokens, corpora.tokens(name, tokenizer, "validation"))


def test_a_document_keeps_its_split_whatever_is_beside_it() -> None:
    train = set(corpora.documents("wiki-fr", "train")["text"])
    assert all((corpora.split_of(text) == "train") == (text in train) for text in corpora.documents("wiki-fr")["text"])
    shares = np.mean([corpora.split_of(str(number)) == "validation" for number in range(20_000)])
    assert abs(shares - corpora.VALIDATION) < 0.01


def test_names_and_splits_are_checked(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="unknown corpus 'wiki-de': expected one of wiki-en"):
        corpora.documents("wiki-de")
    with pytest.raises(ValueError, match="unknown split 'test': expected 'train', 'validation'"):
        corpora.tokens("wiki-en", tokenizer, "test")
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="no end token"):
        corpora.tokens("wiki-en", endless)


def test_another_tokenizer_has_its_own_tokens() -> None:
    words = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1, "the": 2}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    few = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    tokens, offsets = corpora.token_documents("wiki-es", few, "validation")
    assert set(np.unique(tokens)) <= {0, 1, 2} and (tokens == 0).sum() == len(offsets) - 1


def test_truncation_and_padding_of_a_tokenizer_do_not_reach_a_corpus() -> None:
    """A file may have them switched on; the tokenizer that was passed keeps them."""
    words = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1, "the": 2}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    right = corpora.tokens("wiki-es", PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>"), "validation")
    words.enable_truncation(4)
    words.enable_padding(length=9)
    cut = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    assert np.array_equal(corpora.tokens("wiki-es", cut, "validation"), right)
    assert cut.backend_tokenizer.truncation["max_length"] == 4


def test_merges_are_not_dropped_at_random() -> None:
    pairs = Tokenizer(models.BPE(dropout=0.5, unk_token="<end>"))
    pairs.pre_tokenizer = pre_tokenizers.Whitespace()
    pairs.train_from_iterator(["the thing that they think there"] * 5, trainers.BpeTrainer(special_tokens=["<end>"]))
    rules = corpora._rules(PreTrainedTokenizerFast(tokenizer_object=pairs, eos_token="<end>"))
    assert len({tuple(rules.encode("the thing that they think").ids) for _ in range(20)}) == 1


def test_a_tokenizer_written_in_python_is_refused() -> None:
    class Slow:
        eos_token_id = 0

    with pytest.raises(ValueError, match="Slow is written in Python: expected one with a tokenizer.json"):
        corpora.tokens("wiki-es", Slow())


def test_fingerprints_tell_corpora_apart() -> None:
    prints = [corpora.fingerprint(name) for name in corpora.NAMES]
    assert len(set(prints)) == len(prints)


def test_articles_of_a_dump_lose_their_markup(tmp_path: Path) -> None:
    page = (
        "<page><title>A</title><revision><text>{{Box|{{inner}}|x}}'''Bold''' [[link|shown]]&lt;ref name=\"a\"/&gt; "
        "[[File:a.jpg|a [[b]] c]]\n== Title ==\n* item&lt;ref&gt;gone&lt;/ref&gt;</text></revision></page>"
    )
    moved = "<page><title>B</title><revision><text>#REDIRECT [[A]]</text></revision></page>"
    (tmp_path / "enwiki.xml.bz2").write_bytes(bz2.compress(f"<mediawiki>{page}{moved}".encode()))
    ((title, text),) = texts.gensim_wiki(tmp_path)
    assert title == "A" and text.split() == ["Bold", "shown", "Title", "item"]


def test_every_reader_has_a_source() -> None:
    assert {source for source, _ in texts.READERS.values()} == {
        name for name, source in sources.sources().items() if source.kind == "text"
    }
