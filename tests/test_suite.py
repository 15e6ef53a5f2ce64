"""The suite: the same losses and layout as Hugging Face's GPT-NeoX, one epoch at most, the same bytes after a kill."""

import dataclasses
import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lib.train import loop, mixture, neox, suite
from lib.train.tokenizer import END, train_tokenizer

RUN = loop.Run(
    name="toy",
    width=16,
    heads=2,
    layers=2,
    vocabulary=300,
    context=16,
    tokens_per_step=64,
    steps=24,
    learning_rate=1e-2,
    save_every=8,
    evaluations=6,
    validation_tokens=128,
    seed=3,
)
WORDS = "the paper asks why small models stop learning and the book asks it again of every head é 漢 \n".split(" ")


def sentences(seed, count=400):
    """Random text over a few words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(3, 30))) for _ in range(count)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder as write_mixture leaves it, of toy text."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = train_tokenizer(sentences(0), RUN.vocabulary)
    tokenizer.save_pretrained(folder)
    for split, seed in (("train", 0), ("validation", 1)):
        ids = [token for sentence in sentences(seed) for token in (*tokenizer(sentence).input_ids, 0)]
        np.save(folder / f"{split}.npy", np.array(ids, dtype=np.int32))
    (folder / "mixture.json").write_text("{}")
    return folder


def train(run, text, folder):
    """The run's folder, after training."""
    folder.mkdir()
    loop.train(run, text, folder, bar={"disable": True})
    return folder


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """Folders of the toy run without and with an output bias."""
    parent = tmp_path_factory.mktemp("runs")
    biased = dataclasses.replace(RUN, output_bias=True)
    return train(RUN, text, parent / "plain"), train(biased, text, parent / "biased")


def digests(folder):
    """Hash of every file of every checkpoint under a folder."""
    files = sorted(path for path in folder.rglob("step*/*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("scale", [0.3, 8.0])  # the second needs the shift by the largest logit
@pytest.mark.parametrize("biased", [False, True])
def test_head_loss_and_gradients_are_those_of_cross_entropy(scale, biased):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(700, 16, generator=generator, requires_grad=True)
    weight = (scale * torch.randn(1000, 16, generator=generator)).requires_grad_()
    bias = torch.randn(1000, generator=generator, requires_grad=True) if biased else None
    targets = torch.randint(1000, (700,), generator=generator)
    inputs = [states, weight, *([bias] if biased else [])]
    ours = neox.head_loss(states, weight, targets, bias)
    reference = F.cross_entropy(F.linear(states, weight, bias).double(), targets)
    assert ours.item() == pytest.approx(reference.item(), rel=1e-5)
    for own, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(reference, inputs), strict=True):
        assert (own - other).norm() <= 1e-4 * other.norm()
    with torch.no_grad():
        assert neox.head_loss(states, weight, targets, bias).item() == pytest.approx(ours.item(), rel=1e-6)


def test_training_is_a_plain_loop_over_hugging_face(text):
    """Twenty updates, in float32, against GPTNeoXForCausalLM(labels=...) with torch's own AdamW and clipping."""
    training = loop.Training(RUN, np.load(text / "train.npy"))
    network = neox.model(RUN.width, RUN.layers, RUN.heads, RUN.vocabulary, RUN.context, RUN.seed)
    plain = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    rows = torch.from_numpy(mixture.windows(np.load(text / "train.npy"), RUN.context).astype(np.int64))
    for step in range(20):
        batch = rows[4 * step : 4 * step + 4]
        for group in plain.param_groups:
            group["lr"] = loop.learning_rate(step + 1, RUN.steps, RUN.learning_rate)
        plain.zero_grad()
        logits = network(input_ids=batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        plain.step()
        assert training.update(batch) == pytest.approx(loss.item(), abs=1e-5)


def test_initial_weights_are_pythias_and_follow_from_the_seed():
    network = neox.model(64, 3, 4, 1024, 32, seed=1)
    weights = dict(network.named_parameters())
    small, wang = math.sqrt(2 / (5 * 64)), 2 / (3 * math.sqrt(64))
    for name, weight in weights.items():
        if weight.ndim == 2:
            expected = wang if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")) else small
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
    assert not network.config.tie_word_embeddings and network.config.use_parallel_residual
    before = torch.random.get_rng_state()
    assert torch.equal(neox.model(64, 3, 4, 1024, 32, seed=1).lm_head.weight, network.lm_head.weight)
    assert not torch.equal(neox.model(64, 3, 4, 1024, 32, seed=2).lm_head.weight, network.lm_head.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_checkpoints_load_as_any_model_does_and_give_the_recorded_losses(text, trained):
    log = suite.json.loads((trained[0] / "log.json").read_text())
    assert {point["step"] for point in log["validation"]} >= {0, 1, 2, 4, 8, 16, 24}
    held_out = mixture.windows(np.load(text / "validation.npy"), RUN.context)
    numbers = np.sort(np.random.default_rng(0).permutation(len(held_out))[: RUN.validation_tokens // RUN.context])
    rows = torch.from_numpy(held_out[numbers].astype(np.int64))
    losses = {point["step"]: point["loss"] for point in log["validation"]}
    for step in (0, 24):
        model, loading = AutoModelForCausalLM.from_pretrained(trained[0] / f"step{step}", output_loading_info=True)
        assert not any(loading[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            logits = model(rows[:, :-1]).logits
        assert F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item() == pytest.approx(losses[step], 1e-5)
    assert losses[24] < losses[0] - 1
    assert "embed_out.weight" in load_file(trained[0] / "step24" / "model.safetensors")  # as in Pythia's own files


def test_output_bias_starts_at_the_log_frequency_and_is_the_better_start(text, trained):
    counts = np.bincount(np.load(text / "train.npy"), minlength=RUN.vocabulary) + 1
    bias = load_file(trained[1] / "step0" / "output_bias.safetensors")["bias"]
    np.testing.assert_allclose(bias.double().exp(), counts / counts.sum(), rtol=1e-5)
    plain, biased = (suite.json.loads((folder / "log.json").read_text())["validation"][0] for folder in trained)
    assert biased["loss"] < plain["loss"]
    assert not torch.equal(load_file(trained[1] / "step24" / "output_bias.safetensors")["bias"], bias)
    assert not (trained[0] / "step0" / "output_bias.safetensors").exists()


def test_tokenizer_returns_any_text_and_the_same_merges_each_time(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "step24")
    strange = "naïve  tabs\t日本語 \U0001f600\n\nend"
    assert tokenizer.decode(tokenizer(strange).input_ids) == strange
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END, 0)
    first, second = (train_tokenizer(sentences(0), 280).get_vocab() for _ in range(2))
    assert first == second and len(first) == 280
    with pytest.raises(ValueError, match="too small"):
        train_tokenizer(sentences(0), 200)
    with pytest.raises(ValueError, match="give more text"):
        train_tokenizer(["a few words"], 1000)


def test_schedules():
    run = dataclasses.replace(RUN, steps=2048, save_every=512, evaluations=64)
    assert run.saved_steps() == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1536, 2048]
    assert len(run.evaluated_steps()) >= 64 and set(run.saved_steps()) <= set(run.evaluated_steps())
    rates = [loop.learning_rate(step, 2048, 1e-2) for step in range(1, 2049)]
    assert rates[19] == max(rates) == pytest.approx(1e-2)  # 1 % of the steps
    assert rates[-1] == pytest.approx(1e-3) and rates[0] == pytest.approx(1e-2 / 20)
    assert np.all(np.diff(rates[20:]) < 0)


def test_no_token_is_a_target_twice_and_a_second_epoch_is_refused(text):
    stream = np.arange(1000)
    run = dataclasses.replace(RUN, steps=15)
    batches = loop._batches(run, stream)
    targets = torch.cat([batches(step)[:, 1:].flatten() for step in range(run.steps)])
    assert len(targets.unique()) == len(targets) == run.steps * run.tokens_per_step
    with pytest.raises(ValueError, match="more than an epoch"):
        loop._batches(dataclasses.replace(RUN, steps=16), stream)


def test_technical_text_is_at_most_a_third(monkeypatch):
    sizes = {"prose": [900, 100], "manual": [300] * 5, "reference": [5000, 150, 60]}
    monkeypatch.setattr(mixture.corpora, "documents", lambda name, split: {"text": ["x" * n for n in sizes[name]]})
    kept = mixture.select(["prose"], ["manual", "reference"], "train")
    total = {name: sum(sizes[name][number] for number in numbers) for name, numbers in kept.items()}
    assert total["prose"] == 1000
    assert 0.5 / 3 < (total["manual"] + total["reference"]) / sum(total.values()) <= 1 / 3


def test_a_loss_that_is_not_finite_stops_with_a_sentence_and_keeps_the_checkpoints(text, tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss of toy is nan at step \d+: expected a finite number"):
        train(dataclasses.replace(RUN, learning_rate=float("inf")), text, tmp_path / "run")
    last = max(int(path.name.removeprefix("step")) for path in (tmp_path / "run").glob("step*"))
    weights = load_file(tmp_path / "run" / "step0" / "model.safetensors")
    assert last < RUN.steps and all(torch.isfinite(weight).all() for weight in weights.values())


def test_runs_killed_at_any_moment_end_in_the_same_bytes(text, trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        "import sys, pathlib; from lib.train import loop; from tests.test_suite import RUN\n"
        "print('ready', flush=True); loop.train(RUN, *map(pathlib.Path, sys.argv[1:]), bar={'disable': True})"
    )
    generator = random.Random(0)
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, text, folder], stdout=subprocess.PIPE)
        child.stdout.readline()
        try:
            child.wait(generator.uniform(0.02, 0.3))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    loop.train(RUN, text, folder, bar={"disable": True})
    assert digests(folder) == digests(trained[0])
    assert not (folder / "state.pt").exists()


def test_the_smoke_suite_is_trained_once_and_listed():
    command = [sys.executable, "-m", "lib.train.suite", "--profile", "smoke"]
    subprocess.run(command, check=True, capture_output=True)
    started = time.time()
    subprocess.run(command, check=True, capture_output=True)
    index = suite.json.loads((suite.cache() / "suite" / "index.json").read_text())
    for run in suite.runs("smoke"):
        folder = suite.cache() / "suite" / index[run.name]["path"]
        assert (folder / "log.json").stat().st_mtime < started
        assert index[run.name]["steps"] == run.saved_steps()
        assert all((folder / f"step{step}" / "model.safetensors").exists() for step in run.saved_steps())
    losses = suite.losses("smoke")
    assert set(losses["split"]) == {"train", "validation"} and losses["loss"].between(0, math.log(512) + 1).all()


def test_bad_requests_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="unknown profile 'huge': expected one of laptop, smoke, paper"):
        suite.runs("huge")
    with pytest.raises(ValueError, match="no run of profile 'paper' is trained"):
        suite.losses("paper")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "BOOK_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "lib.train.suite", "--profile", "paper"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1 and done.stderr.startswith("suite: profile paper trains on a GPU")
    assert len(done.stderr.strip().splitlines()) == 1
