"""What checkpoints show of what chapter 8 predicts: from the head and the norms where that is enough, else the model.

    python -m lib.study.predictions           heads, norms, queries and key biases: predicted against found
    python -m lib.study.predictions --whole   whole models too

The parts of 70M are 53 MB a checkpoint, of which the head is 52; every part is fetched once.
"""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from lib.data import architecture, checkpoints, corpora, parts, predictions
from lib.measure import offsets
from lib.run import sweep
from lib.train import states

WHERE = "EleutherAI/{model}@step{step}"
NORM, ATTENTION = "final_layer_norm", "attention.query_key_value"
CHUNK = 256  # positions whose logits are held at once: 50 MB of float32 at V = 50,304
ROUNDED = {"rounding_fp16": torch.float16, "rounding_bf16": torch.bfloat16}


def from_head(address: str) -> pd.DataFrame:
    """Quantities that the head and the final norm decide or bound: quantity, low, high."""
    norm = parts.read(address, f"{NORM}.weight", f"{NORM}.bias")
    head = checkpoints.head(address)
    gain, bias = (next(part for name, part in norm.items() if name.endswith(kind)) for kind in ("weight", "bias"))
    share, cosine = offsets.mean_share(head), offsets.first_on_ones(head)
    return _rows(offset=offsets.head_offset(head, gain, bias), mean_row=(share, share), first_on_ones=(cosine, cosine))


def from_attention(address: str) -> pd.DataFrame:
    """Key biases, and the largest offset that they could add to all scores of a query: quantity, low, high."""
    settings = parts.config(address)
    heads, rotated = settings.num_attention_heads, _rotated(settings)
    endings = [f"{name}.{kind}" for name in (ATTENTION, "input_layernorm") for kind in ("weight", "bias")]
    read = {key.partition("layers.")[2]: part for key, part in parts.read(address, *endings).items()}
    norms, reach = [], []
    for layer in range(settings.num_hidden_layers):
        weight, bias, gain, shift = (read[f"{layer}.{ending}"] for ending in endings)
        norms.append(float(torch.linalg.vector_norm(offsets.by_head(bias.double(), heads)[1], dim=1).max()))
        reach.append(np.abs(offsets.score_offsets(weight, bias, gain, shift, heads, rotated)).max())
    return _rows(key_bias=(max(norms),) * 2, key_reach=(max(reach),) * 2)


@torch.inference_mode()
def from_model(
    address: str, corpus: str, tokens: int, context: int = 512, c: float = 0.7, device: str = "cpu"
) -> pd.DataFrame:
    """Quantities that need the model, on the validation part of a corpus: quantity, low, high.

    offset (mean over positions), loss (float32), rounding_fp16, rounding_bf16 and score_offset (GPT-NeoX only), and
    expected_fp16, what c s^2 / 24 says at the offset of each position.
    """
    model, tokenizer = checkpoints.load(address, device)
    readout, stream = architecture.readout(model), corpora.tokens(corpus, tokenizer, "validation")[: tokens + 1]
    inputs, labels = states.windows(stream, min(context, architecture.longest(model, context)))
    rows = []
    with _scores(model) as largest:
        for window, label in zip(inputs, labels, strict=True):
            entering = architecture.last_states(model, window[None].to(device))[0]
            for some, right in zip(entering.split(CHUNK), label.to(device).split(CHUNK), strict=True):
                rows += _costs(readout.logits(some), right, c)
    found = pd.DataFrame(rows).mean()
    return _rows(**{name: (value, value) for name, value in found.items()}, score_offset=(max(largest),) * 2)


def points(needs: str, where: str = WHERE) -> list[dict]:
    """The checkpoints that predictions read from `needs` (head, attention or model) ask for, as a grid."""
    wanted = [one for one in predictions.predictions() if predictions.QUANTITIES[one.quantity] == needs]
    asked = {(model, step) for one in wanted for model in one.models for step in one.steps}
    return [{"address": where.format(model=model, step=step)} for model, step in sorted(asked)]


def measured(where: str = WHERE, whole: bool = False, **reading) -> pd.DataFrame:
    """All that the predictions ask for, carried out and kept as every sweep: address, quantity, low, high.

    whole: with the models too; reading: corpus, tokens, context, c and device of `from_model`. Parts are read without
    asking: what a sweep would state as their cost is that of whole models.
    """
    parts_of = ((from_head, "head"), (from_attention, "attention"))
    found = [sweep.run(function, points(needs, where), yes=True) for function, needs in parts_of]
    if whole:
        found.append(sweep.run(from_model, points("model", where), **reading))
    return pd.concat(found, ignore_index=True)


def compared(found: pd.DataFrame | None = None, where: str = WHERE) -> pd.DataFrame:
    """Every prediction against what was found: prediction, quantity, model, step, predicted, low, high, answer.

    answer is holds, refuted or open (what is known reaches over the end of the interval), or empty: not measured.
    Whatever was found of the whole model goes before what the head allows. kept_rise has one row a model, at the last
    step.
    """
    known = _known(found)
    rows = []
    for one in predictions.predictions():
        for model in one.models:
            steps = one.steps[-1:] if one.quantity == "kept_rise" else one.steps
            for step in steps:
                addresses = [where.format(model=model, step=each) for each in one.steps]
                low, high = _found(one.quantity, where.format(model=model, step=step), addresses, known)
                answer = predictions.judged(one, low, high) if np.isfinite([low, high]).all() else ""
                rows.append((one.name, one.quantity, model, step, one.interval, low, high, answer))
    columns = ["prediction", "quantity", "model", "step", "predicted", "low", "high", "answer"]
    return pd.DataFrame(rows, columns=columns)


def listed() -> pd.DataFrame:
    """The table as it was written: prediction, quantity, models, steps, predicted, because, refuted if."""
    return pd.DataFrame(
        {
            "prediction": one.name,
            "quantity": one.quantity,
            "models": ", ".join(model.removeprefix("pythia-") for model in one.models),
            "steps": ", ".join(f"{step:,}" for step in one.steps),
            "predicted": one.interval,
            "because": one.because,
            "refuted if": one.refuted,
        }
        for one in predictions.predictions()
    )


def _costs(logits, labels, c):
    """A row for each position."""
    logits = logits.float()
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    means = logits.mean(1).tolist()
    columns = {"offset": means, "loss": loss.tolist()}
    columns["expected_fp16"] = [offsets.rounding_cost(mean, c, 10) for mean in means]
    for name, dtype in ROUNDED.items():
        rounded = torch.nn.functional.cross_entropy(logits.to(dtype).float(), labels, reduction="none")
        columns[name] = (rounded - loss).tolist()
    return pd.DataFrame(columns).to_dict("records")


@contextmanager
def _scores(model: torch.nn.Module) -> Iterator[list[float]]:
    """A list that takes the largest absolute mean score of a query over its keys, of every layer and forward pass."""
    largest, hooks, rotated = [0.0], [], _rotated(model.config)

    def look(module, _, fused):
        cut = fused.double().unflatten(-1, (model.config.num_attention_heads, 3, -1))  # (B, T, heads, 3, size)
        queries, keys = cut[..., 0, rotated:], cut[..., 1, rotated:]
        count = torch.arange(1, keys.shape[1] + 1, device=keys.device)[:, None, None]
        mean = (queries * keys.cumsum(1) / count).sum(-1) / cut.shape[-1] ** 0.5
        largest.append(float(mean.abs().max()))

    for name, module in model.named_modules():
        if name.endswith(ATTENTION):
            hooks.append(module.register_forward_hook(look))
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _rotated(settings):
    """Dimensions of a head that rotary embeddings turn."""
    size = settings.hidden_size // settings.num_attention_heads
    return int(size * (getattr(settings, "rope_parameters", None) or {}).get("partial_rotary_factor", 1))


def _rows(**found):
    return pd.DataFrame([(name, *ends) for name, ends in found.items()], columns=["quantity", "low", "high"])


def _known(found):
    """(address, quantity) -> (low, high), the narrowest interval first found."""
    if found is None:
        return {}
    narrow = found.assign(width=found.high - found.low).sort_values("width").drop_duplicates(["address", "quantity"])
    return {(row.address, row.quantity): (row.low, row.high) for row in narrow.itertuples()}


def _found(quantity, address, along, known):
    """Interval of a quantity; NaN where it is not known."""
    unknown = (np.nan, np.nan)
    if quantity != "kept_rise":
        return known.get((address, quantity), unknown)
    losses = [known.get((each, "loss"), unknown)[0] for each in along]
    return (losses[-1] - min(losses),) * 2 if np.isfinite(losses).all() else unknown


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--whole", action="store_true", help="whole models too: what half precision costs, scores")
    parser.add_argument("--corpus", default="wiki-en")
    parser.add_argument("--tokens", type=int, default=8192)
    args = parser.parse_args()
    table = compared(measured(whole=args.whole, corpus=args.corpus, tokens=args.tokens))
    table["found"] = [re.sub(r"^(\S+) to \1$", r"\1", f"{row.low:.4g} to {row.high:.4g}") for row in table.itertuples()]
    print(table[["quantity", "model", "step", "predicted", "found", "answer"]].to_string(index=False))


if __name__ == "__main__":
    main()
