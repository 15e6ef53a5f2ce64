"""A text of one's own as a corpus: read by document, known by its content, refused in one sentence."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lib.data import corpora, own_texts

TEXTS = [f"The text number {number} says nothing else." for number in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tokenizer():
    words = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1, "text": 2, "nothing": 3}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")


def folder(path):
    path.mkdir()
    for number, text in enumerate(TEXTS):
        (path / f"{number:02d}.{'md' if number % 2 else 'txt'}").write_text(text)
    (path / "picture.png").write_bytes(b"\0\1")
    (path / ".git").mkdir()
    (path / ".git" / "log.txt").write_text("hidden")
    return path


def jsonl(path, field="text"):
    path.write_text("".join(json.dumps({"id": number, field: text}) + "\n" for number, text in enumerate(TEXTS)))
    return path


def parquet(path, field="text"):
    pd.DataFrame({"id": range(len(TEXTS)), field: TEXTS}).to_parquet(path)
    return path


def divided(path):
    path.write_text("\n\n\n".join(TEXTS))
    return path


@pytest.mark.parametrize(
    ("make", "name"), [(folder, "own"), (jsonl, "own.jsonl"), (parquet, "own.parquet"), (divided, "own.txt")]
)
def test_every_form_gives_the_same_documents_and_tokens(tmp_path, tokenizer, make, name):
    path = str(make(tmp_path / name))
    assert sorted(corpora.documents(path)["text"]) == sorted(TEXTS)
    assert len(set(corpora.documents(path)["id"])) == len(TEXTS)
    train, validation = (set(corpora.documents(path, split)["text"]) for split in ("train", "validation"))
    assert train | validation == set(TEXTS) and not train & validation and validation
    tokens, offsets = corpora.token_documents(path, tokenizer)
    assert len(offsets) == len(TEXTS) + 1 and (np.asarray(tokens)[offsets[1:] - 1] == 0).all()
    assert (tokens == 2).sum() == (tokens == 3).sum() == len(TEXTS)


def test_a_field_may_be_named(tmp_path):
    for path in (jsonl(tmp_path / "own.jsonl", "body"), parquet(tmp_path / "own.parquet", "body")):
        assert corpora.documents(f"{path}#body")["text"] == TEXTS
        with pytest.raises(
            ValueError, match=f"no field 'text': expected one of id, body; name it as in {path.name}#id"
        ):
            corpora.documents(str(path))
        with pytest.raises(ValueError, match="the field 'id' of .* holds int.*: expected text; name another"):
            corpora.documents(f"{path}#id")


def test_tokens_follow_the_content_not_the_path(tmp_path, tokenizer, cache, monkeypatch):
    first = jsonl(tmp_path / "a.jsonl")
    before = corpora.fingerprint(str(first))
    found = np.array(corpora.tokens(str(first), tokenizer, None))
    shutil.copy(first, tmp_path / "b.jsonl")
    monkeypatch.chdir(tmp_path)
    assert corpora.fingerprint("./b.jsonl") == before == corpora.fingerprint("b.jsonl")
    corpora.tokens("./b.jsonl", tokenizer, None)
    assert len(list((cache / "tokens").glob("*[!.lock]"))) == 1
    text = first.read_text().replace("number 7 ", "number seven ")
    first.write_text(text)
    assert corpora.fingerprint(str(first)) != before
    assert len(corpora.tokens(str(first), tokenizer, None)) == len(found)
    assert "The text number seven says nothing else." in corpora.documents(str(first))["text"]
    whole = folder(tmp_path / "whole")
    before = corpora.fingerprint(str(whole))
    assert corpora.fingerprint(str(whole.rename(tmp_path / "moved"))) == before
    (tmp_path / "moved" / "new.txt").write_text("one more")
    assert corpora.fingerprint(str(tmp_path / "moved")) != before


def test_a_text_without_marks_is_cut_between_paragraphs(tmp_path):
    paragraphs = [f"Paragraph {number} " + "with its own words " * (number + 9) for number in range(80)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    found = [text for _, text in own_texts.read(str(tmp_path / "book.txt"))]
    assert "\n\n".join(found) == "\n\n".join(paragraphs)
    assert len(found) > 5 and all(len(text) >= own_texts.STRETCH for text in found[:-1])
    (tmp_path / "marked.txt").write_text("one\n\ntwo<|endoftext|>three\ffour")
    assert [text for _, text in own_texts.read(str(tmp_path / "marked.txt"))] == ["one\n\ntwo", "three", "four"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("own.txt", b"", "own.txt holds no text: expected at least one document"),
        ("own.txt", b"MZ\0\1binary", "own.txt is no text in UTF-8: expected plain text"),
        ("own.txt", b"caf\xe9 au lait", "own.txt is no text in UTF-8: expected plain text"),
        ("own.jsonl", b"", "own.jsonl holds no text: expected at least one document"),
        ("own.jsonl", b'{"text": "a"}\n{"text": ', "line 2 of .*own.jsonl is no JSON object: mend or remove it"),
        ("own.jsonl", b'{"text": "a"}\n3\n', "line 2 of .*own.jsonl is no JSON object: mend or remove it"),
        ("own.jsonl", b'{"text": ["a"]}\n', "the field 'text' of .*own.jsonl holds list: expected text; name another"),
        ("own.parquet", b"PAR1 no more", "own.parquet is no whole Parquet file: copy it again"),
        ("own.docx", b"PK", "own.docx ends in .docx: expected a folder, or a file that ends in .txt, .md"),
        ("own", b"text", "own ends in no suffix: expected a folder"),
    ],
)
def test_what_is_no_corpus_is_refused_in_one_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        corpora.documents(str(tmp_path / name))
    assert not list((tmp_path / "cache").glob("corpora/*.new"))


def test_missing_and_empty_folders_are_told(tmp_path):
    with pytest.raises(ValueError, match="there is no text at .*none: expected a folder"):
        corpora.documents(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder .*empty holds no text: expected files that end in .txt"):
        corpora.documents(str(tmp_path / "empty"))
    (tmp_path / "one.txt").write_text("a single document")
    with pytest.raises(ValueError, match="none of the 1 documents of .*one.txt is in its validation part"):
        corpora.documents(str(tmp_path / "one.txt"), "validation")


def test_names_of_corpora_are_no_paths():
    assert not any(own_texts.is_path(name) for name in corpora.NAMES + corpora.HUB_NAMES)
    assert own_texts.is_path("./wiki-en") and own_texts.is_path("notes.txt") and own_texts.is_path("a.jsonl#body")
