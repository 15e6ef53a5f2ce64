"""Counting 5-grams against a dictionary of tuples, and the W-error of 100,000 contexts: time, memory, error.

    python -m tests.bench.ngrams

Ratios are of medians of runs that alternate in one process; memory is traced. tokengrams, where it is installed, has to
build its index and answer one context at a time.
"""

import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np

from lib.data import checkpoints, corpora
from lib.measure import ngram_spectrum, ngrams
from tests.bench import row, seconds

TOKENS, ORDER, CONTEXTS = 5_000_000, 5, 100_000
RANKS = [100, 250, 500, *range(1000, 16000, 1000), 20000, 30000]
TEXTS = ("wiki-en", "gensim-wiki", "shakespeare-milton", "django-docs", "google-docs")


def text():
    """Five million tokens of prose and manuals under Pythia's tokenizer, and its size."""
    tokenizer = checkpoints.tokenizer("package:neox-20b")
    tokens = np.concatenate([corpora.tokens(name, tokenizer, None) for name in TEXTS])
    return tokens[:TOKENS], len(tokenizer)


def by_tuples(tokens):
    """The dictionary, at its fastest: tuples made by zip."""
    ids = tokens.tolist()
    return Counter(zip(*[ids[place:] for place in range(ORDER)], strict=False))


def memory(function):
    """Traced peak in bytes, the result included."""
    tracemalloc.start()
    kept = function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return peak


def indexed(tokens, vocab_size, asked):
    """Seconds for tokengrams to build its index, and to answer so many contexts."""
    from tokengrams import MemmapIndex

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        tokens.astype(np.uint16).tofile(path)
        start = time.perf_counter()
        index = MemmapIndex.build(str(path), f"{folder}/tokens.idx", vocab_size)
        built = time.perf_counter() - start
        contexts = ngrams.count(tokens, ORDER, vocab_size).contexts[:asked].tolist()
        start = time.perf_counter()
        for context in contexts:
            index.count_next(context)
        return built, time.perf_counter() - start


def main():
    """Print the table of the issue."""
    tokens, vocab_size = text()
    ours, theirs = seconds(lambda: ngrams.context_matrix(tokens, ORDER, vocab_size), lambda: by_tuples(tokens))
    row("5-grams to CSR: Counter's time over ours", f"{theirs / ours:.1f}", ">= 8", theirs / ours >= 8)
    share = memory(lambda: ngrams.context_matrix(tokens, ORDER, vocab_size)) / memory(lambda: by_tuples(tokens))
    row("5-grams to CSR: our memory over Counter's", f"{share:.2f}", "<= 0.25", share <= 0.25)
    matrix = ngrams.context_matrix(tokens, ORDER, vocab_size, CONTEXTS)
    true = []
    (exact,) = seconds(lambda: true.append(ngrams.w_error(matrix, RANKS, largest=vocab_size)), repeats=1)
    row("W-error at 20 ranks, exact: seconds", f"{exact:.1f}", "< 60", exact < 60)
    (fast,) = seconds(lambda: ngrams.w_error(matrix, RANKS, largest=0), repeats=1)
    error = np.abs(ngrams.w_error(matrix, RANKS, largest=0) - true[0]).max()
    row("W-error at 20 ranks, estimated: seconds", f"{fast:.1f}", "< 60", fast < 60)
    row("W-error at 20 ranks, estimated: largest error", f"{error:.1e}", "<= 1e-3", error <= 1e-3)
    gap = (ngram_spectrum.null(matrix).w_error(RANKS) - true[0]).max()
    row("W-error from token counts: largest error", f"{gap:.1e}", "report", True)
    try:
        built, answered = indexed(tokens, vocab_size, asked=20_000)
    except ImportError:
        return
    row("tokengrams' index over our counts", f"{built / ours:.1f}", "> 1", built > ours)
    row("tokengrams, 20,000 contexts answered: seconds", f"{answered:.2f}", "report", True)


if __name__ == "__main__":
    main()
