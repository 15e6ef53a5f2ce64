"""Anisotropy of models by address on real text (Section 4.1), as data frames."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from lib.data import architecture, checkpoints, corpora
from lib.measure.anisotropy import all_but_the_top, interval, unit_sum

LOWEST, HALF = "lowest perplexity", "anisotropy above 0.5"
BATCH = 4096  # tokens in a forward pass, padding included

# Hidden dimensions of models in the paper's Figure 2, from their published configurations: the figure names none.
WIDTHS = {
    ("GPT-2", "small"): 768,
    ("GPT-2", "medium"): 1024,
    ("GPT-2", "large"): 1280,
    ("GPT-2", "XL"): 1600,
    ("OPT", "125M"): 768,
    ("Gemma", "2B"): 2048,
    ("Gemma", "7B"): 3072,
}


def layers(
    address: str,
    corpus: str,
    tokens: int,
    removed: list[int],
    sizes: list[int],
    longest: int = 512,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
) -> pd.DataFrame:
    """Anisotropy of every layer on at least ``tokens`` tokens of a corpus, with 95 % intervals over documents.

    Columns: width, layer (0: embeddings), final_norm (whether after it), removed (-1: nothing; k: the mean and k
    leading directions, last layer only), documents, tokens, anisotropy, low, high. Rows with fewer documents say what
    ``sizes`` of them would have given. Documents are drawn at random, each cut to its ``longest`` first tokens.
    """
    model, tokenizer = checkpoints.load(address, device, architecture.product_dtype(dtype))
    documents = sample(corpus, tokenizer, tokens, architecture.longest(model, longest + 1) - 1, seed)
    counts = np.array([len(document) for document in documents])
    totals, tops = [None] * len(documents), [None] * len(documents)
    for place, states in hidden(model, documents, tokenizer.eos_token_id):
        totals[place] = _sums(states)
        tops[place] = [stage.float().cpu() for stage in states[-2:]]
    totals, depth = np.stack(totals), len(totals[0]) - 2
    stages = [{"layer": min(place, depth), "final_norm": place > depth, "removed": -1} for place in range(depth + 2)]
    rows = _rows(stages, totals, counts)
    for size in sizes:
        if 3 <= size < len(documents):
            rows += _rows(stages[-2:], totals[:size, -2:], counts[:size])
    for place, stage in enumerate(stages[-2:]):
        states = torch.cat([top[place] for top in tops])
        for count in removed:
            parts = all_but_the_top(states, count).split(counts.tolist())
            rows += _rows([stage | {"removed": count}], np.stack([unit_sum(part) for part in parts])[:, None], counts)
    return pd.DataFrame(rows).assign(width=totals.shape[-1])


def families(figure: pd.DataFrame) -> pd.DataFrame:
    """The paper's Figure 2 with the widths that it leaves out; models of unknown width are dropped."""
    known = [WIDTHS.get((row.family, row.model), row.width) for row in figure.itertuples()]
    return figure.assign(width=known).dropna(subset="width").drop(columns="bound")


def printed_events(figure: pd.DataFrame, length: float) -> pd.DataFrame:
    """The events of the paper's Figure 3, as shares of the run: model, source, event, share."""
    names = {"best_step": LOWEST, "step_above_0.5": HALF, "step_above_0.9": "anisotropy above 0.9"}
    long = figure.rename(columns=names).melt("model", list(names.values()), "event", "step").dropna()
    return long.assign(source="paper", share=long.step / length, model="Pythia-" + long.model).drop(columns="step")


def events(along: pd.DataFrame) -> pd.DataFrame:
    """The same of runs followed by model, seed, step, perplexity, anisotropy; means over seeds come first."""
    mean = along.groupby(["model", "step"], sort=False)[["perplexity", "anisotropy"]].mean().reset_index()
    rows = []
    for model, run in mean.sort_values("step").groupby("model", sort=False):
        length = run.step.max()
        steps = {LOWEST: run.step[run.perplexity.idxmin()], "highest anisotropy": run.step[run.anisotropy.idxmax()]}
        rows += [{"model": model, "event": event, "share": step / length} for event, step in steps.items()]
    return pd.DataFrame(rows).assign(source="this book")


@torch.no_grad()
def checkpoint(
    address: str, corpus: str, tokens: int, longest: int = 127, seed: int = 0, device: str = "cpu"
) -> dict[str, float]:
    """Loss in nats per token and last-layer anisotropy of one checkpoint on the validation part of a corpus.

    Keys: width, parameters (embeddings included), loss, low and high (95 % interval of the anisotropy over documents),
    anisotropy (after the final norm), anisotropy_before, tokens.
    """
    model, tokenizer = checkpoints.load(address, device)
    readout = architecture.readout(model)
    documents = sample(corpus, tokenizer, tokens, architecture.longest(model, longest + 1) - 1, seed, "validation")
    totals, losses = [None] * len(documents), 0.0
    for place, states in hidden(model, documents, tokenizer.eos_token_id):
        totals[place] = _sums(states[-2:])
        logits = readout.logits(states[-1][:-1])
        target = torch.from_numpy(documents[place][1:]).to(logits.device)
        losses += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum").double())
    counts = np.array([len(document) for document in documents])
    (before, after), (_, low), (_, high) = interval(np.stack(totals), counts)
    return {
        "width": readout.weight.shape[1],
        "parameters": model.num_parameters(),
        "loss": losses / int((counts - 1).sum()),
        "anisotropy": float(after),
        "low": float(low),
        "high": float(high),
        "anisotropy_before": float(before),
        "tokens": int(counts.sum()),
    }


def sample(corpus: str, tokenizer, tokens: int, longest: int, seed: int, split: str | None = None) -> list[np.ndarray]:
    """Documents drawn at random, each cut to its ``longest`` first tokens, until they hold ``tokens`` of them.

    Raises ValueError where the corpus holds fewer.
    """
    stream, offsets = corpora.token_documents(corpus, tokenizer, split)
    documents, held = [], 0
    for place in np.random.default_rng(seed).permutation(len(offsets) - 1):
        if held >= tokens:
            return documents
        # the last token of a document is the mark that ends it
        document = stream[offsets[place] : min(offsets[place] + longest, offsets[place + 1] - 1)].astype(np.int64)
        if len(document) > 1:
            documents.append(document)
            held += len(document)
    if held >= tokens:
        return documents
    raise ValueError(f"{corpus} holds {held} tokens in documents of at most {longest}: ask for fewer than {tokens}.")


@torch.no_grad()
def hidden(model: torch.nn.Module, documents: list[np.ndarray], start: int) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """States of each document, in an order of its own: its place, and (tokens, width) at each of layers + 2 stages.

    First the embedding, then each block's output, then what enters the head. A token ``start`` goes before each
    document; its own state, which has seen nothing, is left out.
    """
    with architecture.entering(model) as entered, architecture.before_last_norm(model) as before:
        for places in _batches(documents):
            batch = np.full((len(places), 1 + len(documents[places[0]])), start)
            for row, place in zip(batch, places, strict=True):
                row[1 : 1 + len(documents[place])] = documents[place]
            ids = torch.from_numpy(batch).to(model.device)
            blocks = model(ids, use_cache=False, output_hidden_states=True).hidden_states[:-1]
            stages = [*blocks, before["states"], entered.pop()]  # (batch, tokens, width) each
            for row, place in enumerate(places):
                # Padding stands to the right, where a causal model does not see it.
                yield int(place), [stage[row, 1 : 1 + len(documents[place])] for stage in stages]


def _sums(stages):
    """Sums of unit vectors (stages, widest); zeros behind those of a narrower stage change no length."""
    widest = max(stage.shape[1] for stage in stages)
    return np.stack([np.pad(unit_sum(stage), (0, widest - stage.shape[1])) for stage in stages])


def _batches(documents):
    """Places of documents of similar length, the longest first."""
    order, start = np.argsort([-len(document) for document in documents], kind="stable"), 0
    while start < len(order):
        size = max(1, BATCH // (1 + len(documents[order[start]])))
        yield order[start : start + size]
        start += size


def _rows(stages, totals, counts):
    """One row for each stage: totals is (documents, stages, d)."""
    estimates = zip(*interval(totals, counts), strict=True)
    size = {"documents": len(counts), "tokens": int(counts.sum())}
    return [
        stage | size | dict(zip(("anisotropy", "low", "high"), map(float, values), strict=True))
        for stage, values in zip(stages, estimates, strict=True)
    ]
