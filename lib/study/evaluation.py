"""EleutherAI's lm-eval on tasks in memory: models as objects, texts as lists, no progress bars, no hub.

`pages`, `last_words` and `choices` make tasks; `evaluate` runs them and keeps the score of every item, so that two
checkpoints can be compared item by item. Scores change with the harness: print `VERSION` beside them.
"""

import contextlib
import logging
import math
import os
import re

import lm_eval
import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

VERSION = lm_eval.__version__


def pages(texts) -> dict:
    """Word perplexity of whole texts, as for WikiText: a text's tokens in windows of the model's length.

    Raises ValueError where there are no texts, or one is empty.
    """
    rows = [{"page": _text("a page", text)} for text in _listed(texts)]
    return _task("loglikelihood_rolling", rows, None, "page", ["word_perplexity"])


def last_words(texts) -> dict:
    """Perplexity and accuracy of the last word of each text given the rest, as for LAMBADA.

    Raises ValueError where there are no texts, or one has not two words.
    """
    rows = []
    for text in _listed(texts):
        context, _, word = _text("a passage", text).rstrip().rpartition(" ")
        if not context.strip():
            raise ValueError(f"the passage {text!r:.60} has one word: expected at least two, the last to be foretold")
        rows.append({"context": context, "word": " " + word})
    return _task("loglikelihood", rows, "context", "word", ["perplexity", "acc"])


def choices(rows) -> dict:
    """Accuracy at choosing among continuations, by likelihood and by likelihood per character.

    rows: dictionaries of `question`, `choices` (list) and `answer` (index). Raises ValueError where there are none, a
    field is missing or empty, or the answer is no index of a choice.
    """
    items = [_item(number, row) for number, row in enumerate(rows)]
    return _task("multiple_choice", items, "question", "answer", ["acc", "acc_norm"]) | {"doc_to_choice": "choices"}


def evaluate(model, tokenizer, tasks: dict[str, dict], batch_size=16) -> pd.DataFrame:
    """Score of every item of every task: columns task, metric, item, value, words.

    For perplexities value is a log-likelihood in nats and words how many words it spans; for accuracies value is 0 or 1
    and words 1. `score` sums them up. The model keeps its device and dtype; softmax is in float64.
    """
    named = [task | {"task": name} for name, task in tasks.items()]
    with _quiet():
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float64")
        results = lm_eval.simple_evaluate(
            harness, tasks=named, task_manager=TaskManager(include_defaults=False), bootstrap_iters=0, log_samples=True
        )
    rows = []
    for name, samples in results["samples"].items():
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            for metric in sample["metrics"]:
                value, words = sample[metric] if isinstance(sample[metric], tuple) else (sample[metric], 1)
                rows.append((name, metric, sample["doc_id"], float(value), int(words)))
    return pd.DataFrame(rows, columns=["task", "metric", "item", "value", "words"])


def score(metric: str, value, words) -> float:
    """A metric from its items: exp(-log-likelihood per word) for perplexities, the mean for accuracies."""
    mean = float(sum(value)) / float(sum(words))
    return math.exp(-mean) if "perplexity" in metric else mean


def passages(texts, words: int) -> list[str]:
    """Of each text its first sentences, up to the last that ends within so many words; texts without are left out."""
    found = []
    for text in texts:
        start = " ".join(text.split()[:words])
        ends = [match.start() for match in re.finditer(r"\w\. ", start + " ")]
        if ends and start[: ends[-1] + 1].count(" ") > words // 2:
            found.append(start[: ends[-1] + 1])
    return found


def _text(what, text):
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{what} is {text!r:.60}: expected text that is not empty")
    return text


def _listed(texts):
    if isinstance(texts, str):  # else each letter would be one
        raise ValueError(f"{texts!r:.60} is one text: expected a list of texts")
    return texts


def _item(number, row):
    if lacking := {"question", "choices", "answer"} - set(row):
        raise ValueError(f"item {number} has no {', '.join(sorted(lacking))}: expected question, choices and answer")
    offered, answer = list(_listed(row["choices"])), row["answer"]
    if isinstance(answer, (bool, np.bool_)) or answer not in range(len(offered)):
        raise ValueError(
            f"item {number} has the answer {answer!r}: expected the index of one of {len(offered)} choices"
        )
    return {
        "question": _text(f"the question of item {number}", row["question"]),
        "choices": [_text(f"a choice of item {number}", choice) for choice in offered],
        "answer": int(answer),
    }


def _task(output_type, rows, text, target, metrics):
    """A task whose text and target are fields of its rows: a template's result would be parsed, as a list or a number.

    lm-eval takes the field's value as it is.
    """
    if not rows:
        raise ValueError("there are no items to evaluate: expected at least one")
    perplexities = {"word_perplexity": "weighted_perplexity", "perplexity": "perplexity"}
    return {
        "custom_dataset": lambda **_: DatasetDict(test=Dataset.from_list(rows)),
        "test_split": "test",
        "output_type": output_type,
        "doc_to_text": text or (lambda _: ""),
        "doc_to_target": target,
        "metadata": {"version": 1},
        "metric_list": [
            {
                "metric": metric,
                "aggregation": perplexities.get(metric, "mean"),
                "higher_is_better": metric not in perplexities,
            }
            for metric in metrics
        ],
    }


@contextlib.contextmanager
def _quiet():
    """Nothing on standard error: the harness passes its own switches to tqdm, and git's complaint goes to the file."""
    logger = logging.getLogger("lm_eval")
    level, saved, null = logger.level, os.dup(2), os.open(os.devnull, os.O_WRONLY)
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
            os.dup2(null, 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
        logger.setLevel(level)
