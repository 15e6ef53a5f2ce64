"""Heads on frozen states: the chunked loss, the closed forms, training, and the kept states."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from lib.data import corpora
from lib.measure import spectra
from lib.study import heads as tasks
from lib.train import heads
from lib.train.starts import ARMS, gaussian, mean_probability, truncated
from lib.train.states import last_states, windows

V, D, N = 300, 16, 400


def problem(seed=0, vocabulary=V, width=D, count=N):
    """A head, correlated states with a mean, and labels drawn from the head's own softmax."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) / width**0.5
    states = torch.randn(count, width, generator=generator) @ mix + torch.randn(width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) + torch.randn(width, generator=generator)
    labels = torch.multinomial((states @ weight.T).softmax(1), 1, generator=generator).squeeze(1)
    return weight, states, labels


def autograd(states, weight, labels):
    """Loss and gradients by float64 autograd on the whole matrix of logits."""
    states, weight = states.double().requires_grad_(), weight.double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(states @ weight.T, labels)
    loss.backward()
    return loss.item(), states.grad, weight.grad


def distance(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(2, 90), st.integers(1, 20), st.integers(1, 80), st.floats(0.01, 30))
def test_loss_and_gradients_are_those_of_autograd(count, vocabulary, width, chunk, scale):
    weight, states, labels = problem(1, vocabulary, width, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CHUNK", chunk)
        loss, by_states, by_weight = heads.cross_entropy(states, scale * weight, labels)
    expected, right_states, right_weight = autograd(states, scale * weight, labels)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert (by_states - right_states).norm() <= 1e-4 * right_states.norm() + 1e-5 * scale
    assert (by_weight - right_weight).norm() <= 1e-4 * right_weight.norm() + 1e-5


@pytest.mark.parametrize("slab", [64, 128, V])
def test_bf16_loss_and_gradients_agree_within_its_rounding(slab, monkeypatch):
    monkeypatch.setattr(heads, "SLAB", slab)
    weight, states, labels = problem()
    loss, by_states, by_weight = heads.cross_entropy(states.bfloat16(), weight.bfloat16(), labels)
    expected, right_states, right_weight = autograd(states.bfloat16(), weight.bfloat16(), labels)
    assert loss == pytest.approx(expected, rel=3e-3)
    assert distance(by_states, right_states) < 0.02
    assert distance(by_weight, right_weight) < 0.02
    assert by_weight.dtype == torch.float32


def test_huge_logits_stay_finite():
    weight, states, labels = problem()
    for dtype, scale in ((torch.float32, 1e4), (torch.bfloat16, 1e2)):
        loss, by_states, by_weight = heads.cross_entropy(scale * states.to(dtype), weight.to(dtype), labels)
        assert np.isfinite(loss)
        assert torch.isfinite(by_states).all() and torch.isfinite(by_weight).all()


def test_gradient_of_both_factors():
    weight, states, labels = problem()
    full = truncated(weight, "whitened", states)
    out, into = full.out[:, :5].clone(), full.into[:5].clone()
    head = heads.Head(out, into)
    _, by_features, by_out = heads.cross_entropy(head.features(states), out, labels)
    a, b = out.double().requires_grad_(), into.double().requires_grad_()
    torch.nn.functional.cross_entropy(states.double() @ b.T @ a.T, labels).backward()
    assert distance(by_out, a.grad) < 1e-5
    assert distance(by_features.T @ states, b.grad) < 1e-5


def test_nested_ranks_equal_each_head_alone():
    weight, states, labels = problem()
    full = truncated(weight, "SVD", states)
    loss, right = heads.losses(full, states, labels, [1, 3, 16], chunk=150)
    for column, rank in enumerate([1, 3, 16]):
        logits = (states @ full.into[:rank].T @ full.out[:, :rank].T).double()
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        assert loss[:, column].numpy() == pytest.approx(each.numpy(), abs=1e-4)
        assert (right[:, column] == (logits.argmax(1) == labels)).float().mean() > 0.99


def error(weight, full, states, rank):
    """Least-squares error of the centred logits of a rank-r head; its own mean row is not held against it."""
    wanted = spectra.centre(weight).double() @ states.double().T
    cut = spectra.centre(full.out[:, :rank]).double() @ full.into[:rank].double() @ states.double().T
    return float((wanted - cut).norm())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(20, 60))
def test_whitened_arm_is_never_worse_in_least_squares(seed, count):
    weight, states, _ = problem(seed, count=count)
    plain, centred, whitened, _ = (truncated(weight, arm, states, np.ones(V)) for arm in ARMS)
    norm = float((spectra.centre(weight).double() @ states.double().T).norm())
    tail = spectra.w_error(whitened.out.double().norm(dim=0).sort(descending=True).values) * norm
    previous = np.inf
    for rank in range(1, D + 1):
        mine = error(weight, whitened, states, rank)
        assert mine <= error(weight, centred, states, rank) + 1e-3
        assert mine <= error(weight, plain, states, rank) + 1e-3
        assert mine <= previous + 1e-3
        assert mine == pytest.approx(tail[rank], abs=2e-3)
        previous = mine


def test_whitened_arm_has_the_closed_form_of_a_constructed_case():
    """Axis i of this head carries logits of size head_i state_i, and those decide: not the largest of the head."""
    head_sizes, state_sizes = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([0.1, 1.0, 3.0, 0.5])
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(spectra.centre(torch.randn(50, 4, generator=generator).double())).Q
    weight = (left * head_sizes).float()
    states = torch.diag(2 * state_sizes)  # four states: their second moment is diagonal
    full = truncated(weight, "whitened", states)
    assert full.out.norm(dim=0).numpy() == pytest.approx([6.0, 3.0, 0.5, 0.4], rel=1e-4)
    kept = torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert torch.allclose(full.out[:, :2] @ full.into[:2], weight * kept, atol=1e-5)
    plain = truncated(weight, "SVD", states)
    assert torch.allclose(plain.out[:, :2] @ plain.into[:2], weight * torch.tensor([1.0, 1.0, 0.0, 0.0]), atol=1e-5)


@pytest.mark.parametrize("arm", ARMS)
def test_full_rank_reproduces_the_untouched_head(arm):
    weight, states, labels = problem()
    untouched, _ = heads.losses(heads.Head(weight), states, labels)
    loss, _ = heads.losses(truncated(weight, arm, states, mean_probability(weight, states)), states, labels)
    assert loss.numpy() == pytest.approx(untouched.numpy(), abs=1e-4)


def test_weighted_arm_is_closer_to_the_full_head_in_probability():
    weight, states, _ = problem(count=2000)
    frequency = mean_probability(weight, states)
    assert frequency.sum() == pytest.approx(1)
    wanted = (states @ weight.T).log_softmax(1)
    for rank in (4, 8, 12):
        distances = []
        for arm in ("whitened", "weighted"):
            full = truncated(weight, arm, states, frequency)
            cut = (states @ full.into[:rank].T @ full.out[:, :rank].T).log_softmax(1)
            distances.append(float((wanted.exp() * (wanted - cut)).sum(1).mean()))
        assert distances[1] < distances[0]


def test_training_improves_every_rank_and_keeps_the_best():
    weight, states, labels = problem(count=4000)
    full = truncated(weight, "whitened", states)
    starts = [(full.cut(r), 0.02) for r in (2, 6)]
    recipe = heads.Recipe(batch=200, epochs=3, dtype=torch.float32)
    train, stop = slice(0, 3500), slice(3500, 4000)
    validation = states[stop], labels[stop]
    runs = heads.train(starts, states[train], labels[train], validation, recipe)
    again = heads.train(starts, states[train], labels[train], validation, recipe)
    for run, (start, _), other in zip(runs, starts, again, strict=True):
        measured = heads.losses(run.head, *validation)[0].mean().item()
        assert measured == pytest.approx(min(run.losses), rel=1e-5)
        assert run.best == run.steps[int(np.argmin(run.losses))]
        assert measured < heads.losses(start, *validation)[0].mean().item() - 0.01
        assert torch.equal(run.head.out, other.head.out)
    assert min(runs[1].losses) < min(runs[0].losses)


def test_runs_in_one_pass_do_not_influence_one_another():
    weight, states, labels = problem()
    starts = [(gaussian(V, D, 4, scale=1.0), 0.01), (gaussian(V, D, 6, scale=1.0), 0.02)]
    recipe = heads.Recipe(batch=100, epochs=1, dtype=torch.float32)
    both = heads.train(starts, states, labels, (states, labels), recipe)
    alone = heads.train(starts[1:], states, labels, (states, labels), recipe)
    assert torch.equal(both[1].head.out, alone[0].head.out)


def test_training_stops_early_and_search_ranks_the_rates():
    weight, states, labels = problem()
    head, validation = heads.Head(weight), (states, labels)
    ruined = heads.train([(head, 50.0)], states, labels, validation, heads.Recipe(batch=50, epochs=50, patience=2))
    assert ruined[0].best == 0 and len(ruined[0].steps) <= 4
    assert torch.equal(ruined[0].head.out, weight)
    found = heads.search(gaussian(V, D, 8, scale=1.0), [1e-5, 0.03, 30.0], states, labels, validation)
    assert found[0].rate == 0.03


def test_gaussian_start_has_the_stated_scale():
    states = 3.0 * torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    literal, scaled = (gaussian(400, 64, 16, scale) for scale in (None, 3.0))
    assert (scaled.features(states) @ scaled.out.T).std().item() == pytest.approx(1, rel=0.2)
    assert (literal.features(states) @ literal.out.T).std().item() == pytest.approx(16**0.5 * 3 * 64**0.5, rel=0.2)


def test_bad_input_is_refused_in_one_sentence():
    weight, states, labels = problem()
    head = heads.Head(weight)
    for ranks in ([0], [17], [4, 2], [3, 3], []):
        with pytest.raises(ValueError, match="between 1 and 16"):
            heads.losses(head, states, labels, ranks)
    with pytest.raises(ValueError, match="between 1 and the width"):
        gaussian(V, D, 17)
    with pytest.raises(ValueError, match="at least one state"):
        heads.cross_entropy(states[:0], weight, labels[:0])
    with pytest.raises(ValueError, match="states of the same model"):
        heads.cross_entropy(states[:, :8], weight, labels)
    with pytest.raises(ValueError, match="states of the same model"):
        heads.train([(head, 0.1)], states[:, :8], labels, (states, labels))
    with pytest.raises(ValueError, match="between 0 and 299"):
        heads.losses(head, states, labels + 300)
    with pytest.raises(ValueError, match="a token for each"):
        heads.losses(head, states, labels[:-1])
    with pytest.raises(ValueError, match="at least one"):
        heads.train([], states, labels, (states, labels))
    with pytest.raises(ValueError, match="second moment"):
        truncated(weight, "whitened", states[:, :8])
    with pytest.raises(ValueError, match="pass one of"):
        truncated(weight, "pruned", states)
    with pytest.raises(ValueError, match="between 1 and 16"):
        truncated(weight, "SVD", states).cut(17)


BODY = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONTEXT = 8


@pytest.fixture
def body():
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=16, **BODY)).eval()


def text(count=401):
    return np.random.default_rng(0).integers(0, 97, count).astype(np.int32)


def test_kept_states_give_the_loss_of_the_model(body, tmp_path):
    states = last_states(body, text(), tmp_path, CONTEXT)
    inputs, labels = windows(text(), CONTEXT)
    with torch.no_grad():
        logits = body(inputs).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    loss, _ = heads.losses(heads.Head(body.get_output_embeddings().weight.detach()), states, labels.flatten())
    assert loss.mean().item() == pytest.approx(expected, abs=1e-5)
    half = last_states(body, text(), tmp_path / "half", CONTEXT, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert distance(half.float(), states) < 0.005  # its own rounding and no more


def test_kept_states_are_read_and_a_damaged_file_is_made_again(body, tmp_path):
    last_states(body, text(), tmp_path, CONTEXT)
    path = tmp_path / "states"
    right, made = path.read_bytes(), path.stat().st_ino
    last_states(body, text(), tmp_path, CONTEXT)
    assert path.stat().st_ino == made
    path.write_bytes(b"\x01" + right[1:])
    last_states(body, text(), tmp_path, CONTEXT)
    assert path.read_bytes() == right
    assert json.loads((tmp_path / "states.json").read_text())["bytes"] == 400 * 16 * 4


def test_a_longer_text_adds_to_what_is_kept_and_a_shorter_one_reads_from_it(body, tmp_path):
    whole = last_states(body, text(), tmp_path / "whole", CONTEXT)
    seen = []
    body.base_model.register_forward_pre_hook(lambda *_: seen.append(1))
    for tokens, passes in ((161, 20), (401, 50), (81, 50)):
        part = last_states(body, text()[:tokens], tmp_path / "grown", CONTEXT)
        assert torch.equal(part, whole[: tokens - 1])
        assert len(seen) == passes


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from test_heads import BODY, CONTEXT, text
from lib.train.states import last_states
torch.manual_seed(0)
model = GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=16, **BODY)).eval()
calls = iter(range(100))
model.base_model.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL if next(calls) == 5 else 0))
last_states(model, text(), Path(sys.argv[1]), CONTEXT)
"""


def test_killed_and_resumed_states_are_the_same_file(body, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    last_states(body, text(), whole, CONTEXT)
    program = CHILD.format(tests=os.path.dirname(__file__))
    child = subprocess.run([sys.executable, "-c", program, str(cut)], capture_output=True)
    assert child.returncode == -signal.SIGKILL
    part = cut / "states.part"
    done = part.stat().st_size
    assert 0 < done < (whole / "states").stat().st_size
    part.write_bytes(part.read_bytes() + b"half a window")
    seen = []
    body.base_model.register_forward_pre_hook(lambda *_: seen.append(1))
    last_states(body, text(), cut, CONTEXT)
    assert (cut / "states").read_bytes() == (whole / "states").read_bytes()
    assert len(seen) == 45  # of 50 windows
    assert not part.exists()


def test_a_text_shorter_than_a_window_is_refused(body, tmp_path):
    with pytest.raises(ValueError, match="pass at least 9"):
        last_states(body, text(8), tmp_path, CONTEXT)


@pytest.fixture
def address(body, tmp_path, monkeypatch):
    """A tiny model in a folder, and a text drawn from it."""
    with torch.no_grad():
        body.get_output_embeddings().weight.mul_(20)
    written = body.generate(torch.zeros(129, 1, dtype=torch.long), do_sample=True, max_new_tokens=15, pad_token_id=0)
    words = {f"w{index}": index for index in range(97)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w0").save_pretrained(tmp_path / "model")
    body.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpora, "tokens", lambda *_: written.flatten().numpy())
    return str(tmp_path / "model")


def test_smallest_rank_shrinks_with_the_price(address):
    found = tasks.smallest_rank(address, [1e-9, 0.5, 10], tokens=1024, validation=1024, steps=8, context=16)
    assert found["rank"].is_monotonic_decreasing
    assert (found["cost"] <= found["within"] + 1e-5).all()
    assert found["rank"].iloc[-1] == 2
    assert found["saved"].iloc[-1] == 97 * 16 - 2 * (97 + 16)
    dear = found.iloc[0]  # only the full rank is free, and it saves nothing
    assert dear["rank"] == 16 and dear["saved"] == 0
    with pytest.raises(ValueError, match="positive"):
        tasks.smallest_rank(address, [0.0])


def test_gap_at_the_full_rank_is_nothing(address):
    settings = {"parts": 2, "tokens": 1024, "train": 256, "validation": 512, "batch": 64, "context": 16}
    same = tasks.gap(address, "wiki-en", rank=16, rates=[0.01, 0.01], **settings)
    assert same["gap"].abs().max() == 0
    with pytest.raises(ValueError, match="raise tokens"):
        tasks.gap(address, "wiki-en", rank=8, rates=[0.01, 0.01], **settings | {"train": 1024})


def test_a_rank_takes_the_rate_of_its_nearest_neighbour():
    searched = pd.DataFrame({"rank": [8, 8, 64], "rate": [0.1, 0.2, 0.3], "loss": [2.0, 1.0, 3.0]})
    assert tasks.chosen(searched, [4, 20, 30, 64]) == [0.2, 0.2, 0.3, 0.3]
