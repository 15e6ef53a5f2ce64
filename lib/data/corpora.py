"""A corpus by name or by the path of one's own text, as documents and tokens, in a fixed train / validation split."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datasets import (
    Dataset,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    load_from_disk,
)
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lib.data import hub_texts, own_texts, texts
from lib.data.cache import cache, once
from lib.data.sources import fetch, source

NAMES = tuple(texts.READERS)  # from the package index
HUB_NAMES = tuple(hub_texts.READERS)
VALIDATION = 0.05  # share of the documents, by hash
BATCH = 256  # documents tokenised at once


def documents(name: str, split: str | None = None) -> Dataset:
    """Clean documents of a corpus, columns `id` and `text`, in a fixed order; split: train, validation or None = all.

    name: one of `NAMES` or `HUB_NAMES`, or a path as `own_texts` takes it. A document's split depends on the hash of
    its text alone. Raises ValueError for an unknown name or split, a file that can't be read, or where there are no
    documents.
    """
    _check(split)
    folder = cache() / "corpora" / f"{_safe(name)}-{fingerprint(name)}"
    corpus = load_from_disk(once(folder, lambda path: _write(path, name)))
    if split is None:
        return corpus
    chosen = np.flatnonzero([split_of(text) == split for text in corpus["text"]])
    if not len(chosen):
        raise ValueError(f"none of the {len(corpus)} documents of {name} is in its {split} part: use a larger corpus")
    return corpus.select(chosen)


def tokens(name: str, tokenizer: PreTrainedTokenizerFast, split: str | None = "train") -> np.ndarray:
    """Token ids of a corpus, (N,) int32, memory-mapped: its documents, each closed by the tokenizer's end token."""
    return token_documents(name, tokenizer, split)[0]


def token_documents(
    name: str, tokenizer: PreTrainedTokenizerFast, split: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """tokens() and where its documents begin: offsets (documents + 1,), document i is tokens[offsets[i]:offsets[i+1]].

    A tokenizer that was saved with truncation or padding switched on is read without. Raises ValueError for one that
    the tokenizers library does not hold, one without an end token, or an unknown name or split.
    """
    _check(split)
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end token: expected one to put between documents; set eos_token")
    rules = _rules(tokenizer)
    key = f"{_safe(name)}-{split or 'all'}-{_digest(fingerprint(name), f'{rules.to_str()} {tokenizer.eos_token_id}')}"
    folder = once(
        cache() / "tokens" / key,
        lambda path: _tokenise(path, documents(name, split)["text"], rules, tokenizer.eos_token_id),
    )
    return np.load(folder / "tokens.npy", mmap_mode="r"), np.load(folder / "offsets.npy")


def fingerprint(name: str) -> str:
    """What the documents are made from: archive, commit or one's own bytes, the code that cleans them, the split."""
    if own_texts.is_path(name):
        sources = [Path(module.__file__).read_text() for module in (own_texts, texts)]
        return _digest("own", *own_texts.contents(name), *sources, str(VALIDATION))
    if name in hub_texts.READERS:
        return _digest(name, hub_texts.pinned(name), Path(hub_texts.__file__).read_text(), str(VALIDATION))
    if name not in texts.READERS:
        raise ValueError(f"unknown corpus {name!r}: expected one of {', '.join(NAMES + HUB_NAMES)}, or a ./path")
    return _digest(name, source(texts.READERS[name][0]).folder.name, Path(texts.__file__).read_text(), str(VALIDATION))


def _write(path: Path, name: str) -> None:
    if own_texts.is_path(name):
        found = own_texts.read(name)
    elif name in hub_texts.READERS:
        found = hub_texts.read(name)
    else:
        archive, read = texts.READERS[name]
        found = read(fetch(archive))
    kept = list(texts.unique(found))
    if not kept:
        raise ValueError(f"{name} holds no text: expected at least one document; look at its source")
    names, cleaned = zip(*kept, strict=True)
    corpus, silent = Dataset.from_dict({"id": names, "text": cleaned}), are_progress_bars_disabled()
    disable_progress_bars()  # one for each of two dozen corpora, gone in a blink
    try:
        corpus.save_to_disk(path)
    finally:
        if not silent:
            enable_progress_bars()


def _rules(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of how a tokenizer cuts text: all of it, at its own length, the same way each time."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is written in Python: expected one with a tokenizer.json; convert it"
        )
    rules = Tokenizer.from_str(backend.to_str())
    rules.no_truncation()
    rules.no_padding()
    if getattr(rules.model, "dropout", None):  # of merges, which belongs to training
        rules.model.dropout = None
    return rules


def _tokenise(path: Path, corpus: Iterable[str], rules: Tokenizer, end: int) -> None:
    corpus, lengths = list(corpus), []
    path.mkdir()
    with (path / "ids").open("wb") as file:
        for first in range(0, len(corpus), BATCH):
            # The tokenizers library itself: transformers would warn of every text longer than the model's context.
            batch = rules.encode_batch_fast(corpus[first : first + BATCH], add_special_tokens=False)
            for encoding in batch:
                ids = np.array([*encoding.ids, end], dtype=np.int32)
                ids.tofile(file)
                lengths.append(len(ids))
    np.save(path / "tokens.npy", np.memmap(path / "ids", dtype=np.int32, mode="r"))
    np.save(path / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    (path / "ids").unlink()


def split_of(text: str) -> str:
    """The split of a document: validation for a fixed share of all possible texts, else train."""
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
    return "validation" if share < VALIDATION else "train"


def _check(split: str | None) -> None:
    if split not in (None, "train", "validation"):
        raise ValueError(f"unknown split {split!r}: expected 'train', 'validation' or None for all documents")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _safe(name: str) -> str:
    """The name as part of a file name on any system; what is one's own is known by its content alone."""
    return "own" if own_texts.is_path(name) else name.replace(":", "-")
