"""lm-eval in memory agrees with direct computations, and says nothing on standard error."""

import math
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from lib.study import evaluation

TEXTS = [
    "The bagpipe is a woodwind instrument. Its reeds are fed from a bag of air, and it is heard in many lands.",
    "A river runs  to the sea; the sea is salt, though the river is not. " * 6 + "So.",
    "Short one.",
]


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE trained on the texts."""
    bytes_pairs = Tokenizer(models.BPE())
    bytes_pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bytes_pairs.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bytes_pairs, eos_token="<end>")


@pytest.fixture(scope="module")
def model(tokenizer):
    """Random weights, a context shorter than the longest text."""
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=48,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=0.5,
        )
    ).eval()


def log_likelihoods(model, ids):
    """Of every token of ids after the first."""
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    return logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]]


def test_word_perplexity_equals_a_direct_computation(model, tokenizer):
    length, total, words = model.config.max_position_embeddings, 0.0, 0
    for text in TEXTS:
        ids = [tokenizer.eos_token_id, *tokenizer.encode(text)]
        for start in range(0, len(ids) - 1, length):  # windows that share the token before their first
            end = min(start + length, len(ids) - 1)
            first = max(0, end - length)
            total += float(log_likelihoods(model, ids[first : end + 1])[start - first :].sum())
        words += len(re.split(r"\s+", text))
    items = evaluation.evaluate(model, tokenizer, {"wiki": evaluation.pages(TEXTS)})
    direct = math.exp(-total / words)
    assert evaluation.score("word_perplexity", items.value, items.words) == pytest.approx(direct, rel=1e-6)


def test_last_word_is_scored_given_the_rest(model, tokenizer):
    text = TEXTS[0][:37]
    items = evaluation.evaluate(model, tokenizer, {"last": evaluation.last_words([text])})
    context, word = text.rsplit(" ", 1)
    start, end = tokenizer.encode(context), tokenizer.encode(" " + word)
    direct = float(log_likelihoods(model, start + end)[-len(end) :].sum())
    value = items.set_index("metric").value["perplexity"]
    assert value == pytest.approx(direct, rel=1e-6)
    assert evaluation.score("perplexity", [value], [1]) == pytest.approx(math.exp(-direct), rel=1e-6)


def test_choice_is_the_likelier_continuation(model, tokenizer):
    question, options = "The river", ["runs to the sea", "is a woodwind"]
    start = tokenizer.encode(question)
    likelihoods = [
        float(log_likelihoods(model, start + end)[-len(end) :].sum())
        for end in (tokenizer.encode(" " + option) for option in options)
    ]
    rows = [{"question": question, "choices": options, "answer": answer} for answer in (0, 1)]
    items = evaluation.evaluate(model, tokenizer, {"which": evaluation.choices(rows)})
    assert items[items.metric == "acc"].value.tolist() == [float(np.argmax(likelihoods) == answer) for answer in (0, 1)]


ODD = ["[1, 2, 3]", "12", "{{ page }} and {% x %}", "['a']", "None", "1e5", '"quoted"', "{'a': 1}"]


@pytest.mark.parametrize("text", ODD)
def test_text_stays_text_whatever_it_looks_like(model, tokenizer, text):
    """Against the same computation by hand: nothing is parsed, filled in or trimmed."""
    items = evaluation.evaluate(
        model,
        tokenizer,
        {
            "page": evaluation.pages([text]),
            "last": evaluation.last_words([f"{text} {text.split(' ')[-1]}"]),
            "which": evaluation.choices([{"question": text, "choices": [text, "a river"], "answer": 0}]),
        },
    )
    ids = [tokenizer.eos_token_id, *tokenizer.encode(text)]
    assert items[items.task == "page"].value.item() == pytest.approx(float(log_likelihoods(model, ids).sum()), rel=1e-6)
    start, end = tokenizer.encode(text), tokenizer.encode(" " + text.split(" ")[-1])
    direct = float(log_likelihoods(model, start + end)[-len(end) :].sum())
    last = items[(items.task == "last") & (items.metric == "perplexity")]
    assert last.value.item() == pytest.approx(direct, rel=1e-6)
    likelihoods = [
        float(log_likelihoods(model, start + option)[-len(option) :].sum())
        for option in (tokenizer.encode(f" {text}"), tokenizer.encode(" a river"))
    ]
    chosen = items[(items.task == "which") & (items.metric == "acc")]
    assert chosen.value.item() == float(np.argmax(likelihoods) == 0)


def test_what_is_no_item_is_refused_in_one_sentence():
    good = {"question": "The river", "choices": ["runs", "sleeps"], "answer": 1}
    for make in (evaluation.pages, evaluation.last_words, evaluation.choices):
        with pytest.raises(ValueError, match="no items"):
            make([])
    for make, given in ((evaluation.pages, "hello there"), (evaluation.last_words, "hello there")):
        with pytest.raises(ValueError, match="is one text: expected a list"):
            make(given)
    with pytest.raises(ValueError, match="is one text: expected a list"):
        evaluation.choices([good | {"choices": "ab"}])
    for texts in ([""], ["  \n"], [None], [3]):
        with pytest.raises(ValueError, match="expected text that is not empty"):
            evaluation.pages(texts)
    for text in ("word", " word ", "word  "):
        with pytest.raises(ValueError, match="has one word"):
            evaluation.last_words([text])
    for answer in (2, -1, "1", 0.5, True, np.True_, None):
        with pytest.raises(ValueError, match="expected the index of one of 2 choices"):
            evaluation.choices([good | {"answer": answer}])
    with pytest.raises(ValueError, match="index of one of 0 choices"):
        evaluation.choices([good | {"choices": []}])
    with pytest.raises(ValueError, match="a choice of item 0 is ''"):
        evaluation.choices([good | {"choices": ["runs", ""]}])
    with pytest.raises(ValueError, match="item 1 has no answer"):
        evaluation.choices([good, {"question": "q", "choices": ["a"]}])


def test_is_silent_and_leaves_the_model_as_it_was(model, tokenizer, capfd):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluation.evaluate(model, tokenizer, {"wiki": evaluation.pages(TEXTS[2:])})
    assert capfd.readouterr().err == ""
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


def test_passages_end_at_a_sentence_within_the_words():
    text = "One two three four. Five six seven. Eight nine ten eleven twelve."
    assert evaluation.passages([text], 8) == ["One two three four. Five six seven"]
    assert evaluation.passages(["No end in sight of these words at all"], 6) == []
