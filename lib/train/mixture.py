"""The text of the suite: prose with a capped share of technical documents, as one stream of token ids."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.data import corpora
from lib.train.tokenizer import train_tokenizer

CAP = 1 / 3  # of the characters may be technical: such text is formulaic


def select(prose: Sequence[str], technical: Sequence[str], split: str) -> dict[str, np.ndarray]:
    """Numbers of the documents of each corpus that enter the mixture.

    All prose; of the technical documents, in an order drawn once, those that fit under CAP of the characters.
    """
    sizes = {
        name: np.array([len(text) for text in corpora.documents(name, split)["text"]]) for name in (*prose, *technical)
    }
    kept = {name: np.arange(len(sizes[name])) for name in prose}
    room = CAP / (1 - CAP) * sum(sizes[name].sum() for name in prose)
    pairs = [(name, number) for name in technical for number in range(len(sizes[name]))]
    chosen = {name: [] for name in technical}
    for place in np.random.default_rng(0).permutation(len(pairs)):
        name, number = pairs[place]
        if sizes[name][number] <= room:
            room -= sizes[name][number]
            chosen[name].append(number)
    return kept | {name: np.array(sorted(numbers), dtype=int) for name, numbers in chosen.items()}


def write_mixture(folder: Path, prose: Sequence[str], technical: Sequence[str], vocabulary: int) -> None:
    """Write a tokenizer learnt from the training documents, train.npy and validation.npy (int32 ids), mixture.json.

    mixture.json holds the tokens of each corpus in each split.
    """
    kept = {split: select(prose, technical, split) for split in ("train", "validation")}
    tokenizer = train_tokenizer(
        (
            text
            for name, numbers in kept["train"].items()
            for text in corpora.documents(name, "train").select(numbers)["text"]
        ),
        vocabulary,
    )
    tokenizer.save_pretrained(folder)
    counts = {}
    for split, documents in kept.items():
        ids = {name: _ids(name, numbers, tokenizer, split) for name, numbers in documents.items()}
        np.save(folder / f"{split}.npy", np.concatenate(list(ids.values())))
        counts[split] = {name: len(part) for name, part in ids.items()}
    (folder / "mixture.json").write_text(json.dumps(counts))


def windows(ids: np.ndarray, context: int) -> np.ndarray:
    """(windows, context + 1) views of a stream: the last id of each, a target, is the first input of the next."""
    count = (len(ids) - 1) // context
    return np.lib.stride_tricks.sliding_window_view(ids, context + 1)[: count * context : context]


def _ids(name, numbers, tokenizer, split):
    ids, offsets = corpora.token_documents(name, tokenizer, split)
    return np.concatenate([ids[offsets[n] : offsets[n + 1]] for n in numbers] or [ids[:0]])
