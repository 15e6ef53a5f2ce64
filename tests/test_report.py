"""The page on a model: known answers for its head and logits, a real browser with JavaScript and without, bad input."""

import json

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lib.data import corpora
from lib.measure import bounds, passing
from lib.run import report
from lib.show import any_model as draw
from lib.show import report as pages
from lib.show import said
from lib.study import any_model, diagnosis
from tests.test_browser import browser  # noqa: F401

VOCABULARY, WIDTH = 97, 16
TINY = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
MLP = {"intermediate_size": 32, "num_key_value_heads": 2}
SIZES = {"tokens": 400, "held_out": 200, "layer_tokens": 200, "steps": 8, "longest": 31}


def constructed():
    """A head whose singular values are 2 to the powers of minus 0 to 15."""
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**TINY, intermediate_size=32))
    left, right = (torch.linalg.qr(torch.randn(rows, WIDTH)).Q for rows in (VOCABULARY, WIDTH))
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(left * 2.0 ** -torch.arange(WIDTH) @ right.T)
    return model


def biased():
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**TINY, **MLP))
    torch.nn.init.normal_(model.lm_head.bias, std=2)
    return model


MADE = {
    "spectrum": constructed,
    "scaled": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**TINY, **MLP, logit_scale=1 / 16)),
    "capped": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**TINY, **MLP, head_dim=8, final_logit_softcapping=30.0)
    ),
    "biased": biased,
}


def _at(address, loss):
    """What the chart of a run along training reads of a checkpoint."""
    entropies = [{"view": "raw", "entropy": 1.0}]
    return {"address": address, "logits": {"loss": loss, "offset": 0.0}, "layers": [{"anisotropy": 0.1}]} | {
        "entropies": entropies
    }


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Saves a model of MADE with a tiny tokenizer; random documents stand for every corpus."""
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    stream = np.random.default_rng(0).integers(1, VOCABULARY, 1281).astype(np.int32)
    monkeypatch.setattr(corpora, "tokens", lambda *_: stream)
    monkeypatch.setattr(corpora, "token_documents", lambda *_: (stream, np.arange(0, 1281, 32)))
    monkeypatch.setattr(corpora, "fingerprint", lambda name: name)
    any_model._frozen.cache_clear()

    def save(name):
        torch.manual_seed(0)
        model, folder = MADE[name]().eval(), tmp_path / name
        backend = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w0").save_pretrained(folder)
        model.save_pretrained(folder)
        return str(folder), model

    return save


@pytest.mark.parametrize("name", MADE)
def test_losses_are_those_of_the_model_and_a_cut_costs_what_its_logits_say(saved, name):
    address, model = saved(name)
    sizes = {"tokens": 400, "held_out": 200, "longest": 31}
    costs = any_model.rank_costs(address, "any", steps=8, **sizes).set_index("rank")
    seen = any_model._frozen(address, "any", 400, 200, 31)
    documents = [seen.labels[seen.document == number] for number in range(int(seen.document.max()) + 1)]
    found = any_model.logits(address, "any", **sizes)
    assert costs.loss[WIDTH] == pytest.approx(found["loss"], abs=1e-6) and costs.cost[WIDTH] == 0
    assert found["documents"] == len(documents) and found["loss_low"] < found["loss"] < found["loss_high"]
    out, into = any_model.cut(seen)
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.copy_(out[:, :4] @ into[:4])  # the model itself with the head of rank 4
        ids = torch.randint(1, VOCABULARY, (1, 9))
        inside = {}
        handle = head.register_forward_hook(lambda _, inputs, __: inside.update(states=inputs[0]))
        right = model(ids).logits[0]
        handle.remove()
    logits = any_model._after(seen.readout, inside["states"][0] @ into[:4].T @ out[:, :4].T)
    assert (logits - right).abs().max() <= 1e-4 * right.abs().max().clamp(min=1)
    about = any_model.shape(address)
    assert about["scale"] == pytest.approx(1 / 16 if name == "scaled" else 1, rel=1e-6)
    assert about["cap"] == (30 if name == "capped" else None) and about["bias"] == (name == "biased")


def test_a_cut_is_the_best_in_its_metric(saved):
    seen = any_model._frozen(saved("spectrum")[0], "any", 400, 200, 31)
    weight = seen.readout.weight.double().numpy()
    p = torch.cat([seen.readout.logits(part).softmax(1) for part in seen.calibration.split(64)]).double().mean(0)
    moment = (seen.calibration.T.double() @ seen.calibration.double() / len(seen.calibration)).numpy()
    left, right = bounds.factors(weight, moment, (p / p.sum()).numpy())
    out, into = any_model.cut(seen)
    for rank in (1, 5, 9):
        assert np.allclose((out[:, :rank] @ into[:rank]).numpy(), left[:, :rank] @ right[:rank], atol=1e-4)


def test_a_head_passes_on_what_lies_in_its_columns():
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(400, 16, generator=generator)
    inside = torch.randn(5, 16, generator=generator) @ head.T
    assert passing.share(inside, head).numpy() == pytest.approx(np.ones(5), abs=1e-5)
    drawn = passing.share(torch.randn(2000, 400, generator=generator), head)
    assert drawn.square().mean().sqrt() == pytest.approx(passing.chance(head), rel=0.02)


def test_the_page_shows_the_spectrum_in_a_browser_with_javascript_and_without(saved, tmp_path, browser):  # noqa: F811
    address, _ = saved("spectrum")
    numbers = diagnosis.diagnose([address], "any", SIZES, suite=[])
    sigma = [row["sigma"] for row in numbers["models"][0]["spectrum"] if row["view"] == "raw"]
    assert sigma == pytest.approx(2.0 ** -np.arange(WIDTH), rel=2e-3)  # float32 of the smallest
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert (numbers["schema"], numbers["version"]) == ("any-model", 1)
    page = pages.write(tmp_path / "out" / "page.html", "Model", draw.blocks(numbers), numbers)
    assert page.stat().st_size < 3e6 and json.loads(page.with_suffix(".json").read_text()) == numbers
    for script in (True, False):
        shown, messages = browser.new_context(java_script_enabled=script).new_page(), []
        shown.on("console", lambda m, seen=messages: m.type in ("error", "warning") and seen.append(m.text))
        shown.on(
            "request", lambda r, seen=messages: r.url.startswith(("file:", "data:", "blob:")) or seen.append(r.url)
        )
        shown.goto(page.as_uri())
        if script:
            shown.wait_for_function("[...document.querySelectorAll('.vl-chart')].every(box => box.dataset.live)")
        assert shown.locator(".vl-chart").count() == shown.locator(".vl-chart svg:visible").count() >= 4
        assert "cut to rank" in shown.locator("main").inner_text() and messages == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda model: model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.data.fill_(float("nan")), "holds NaN or inf"),
        (lambda model: model.resize_token_embeddings(9), "gives tokens that its embedding does not have"),
    ],
)
def test_a_model_that_can_not_be_measured_says_why(saved, spoil, told):
    address, model = saved("spectrum")
    spoil(model)
    model.save_pretrained(address)
    with pytest.raises(ValueError, match=told):
        any_model.shape(address), any_model.layers(address, "any", 200, 31)


def test_a_model_named_twice_is_measured_once(saved):
    address, _ = saved("spectrum")
    numbers = diagnosis.diagnose([address, address], "any", SIZES, suite=[])
    assert [model["address"] for model in numbers["models"]] == [address]
    told = " ".join(draw.verdict(numbers))
    assert "no less than the 4.57 of a guess at random" in told  # it is not trained
    lost = numbers["models"][0]["logits"]["delta_16"]
    assert f"pushes the mean logit {'up' if lost > 0 else 'down'}" in told


def test_a_short_corpus_says_what_it_lacks(monkeypatch):
    stream = np.ones(64, np.int32)
    monkeypatch.setattr(corpora, "token_documents", lambda *_: (stream, np.array([0, 32, 64])))
    with pytest.raises(ValueError, match="mine.txt has 2 held-out documents: expected 3 or more; use a larger text"):
        any_model.available("mine.txt", None, "validation", 100, 31)


def test_a_run_along_training_is_judged_by_its_loss():
    models = [_at(f"suite:run@step{step}", loss) for step, loss in enumerate((4.0, 3.0, 3.1, 3.2))]
    numbers = {"models": models, "series": diagnosis._series(models)}
    assert [row["run"] for row in numbers["series"]] == ["suite:run"]
    assert "<svg" in pages.markup(pages.Chart(draw.along(numbers)))
    assert diagnosis._series(models[:2]) == []


def test_of_a_run_along_training_the_verdict_tells_the_last_step(monkeypatch):
    monkeypatch.setattr(said, "of_model", lambda *_: ["measured."])
    models = [_at(f"suite:run@step{step}", 4.0 - step / 100) for step in (10, 2, 9)] + [_at("other@step1", 4.0)]
    numbers = {"models": models, "series": diagnosis._series(models), "normal": {}}
    assert said.verdict(numbers)[1:] == ["suite:run@step10: measured.", "other@step1: measured."]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("no such thing", "is no address of a model"),
        ("./nowhere", "there is no folder"),
        ("package:none", "unknown model"),
    ],
)
def test_bad_addresses_are_named_in_one_sentence(address, said, capsys):
    with pytest.raises(SystemExit, match=said):
        report.main([address])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["package:smollm2-135m", "--loss", "a.csv"], "not both"),
        ([], "expected addresses of models"),
        (["package:smollm2-135m", "--min-rise", "0.01"], "--min-rise has no effect on models"),
        (["--loss", "a.csv", "--corpus", "wiki-en"], "--corpus has no effect on loss curves"),
        (["--loss", "a.csv", "--min-rise", "nan"], "expected a share of the loss between 0 and 1"),
    ],
)
def test_options_that_can_not_be_meant_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        report.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("out", ["numbers.json", "folder.html"])
def test_a_page_that_can_not_be_written_is_refused_before_the_work(tmp_path, out):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(SystemExit, match="the page can't be"):
        report.main(["no such thing", "--out", str(tmp_path / out)])


def test_numbers_replace_those_of_a_page_but_nothing_else(tmp_path):
    state = tmp_path / "trainer_state.json"
    state.write_text('{"log_history": []}')
    with pytest.raises(SystemExit, match="its numbers would replace .*trainer_state.json"):
        report.main(["--loss", str(state), "--out", str(state.with_suffix(".html"))])
    assert state.read_text() == '{"log_history": []}'
    state.write_text('{"schema": "loss-curves", "version": 1}')
    assert report._place(state.with_suffix(".html"), []).suffix == ".html"


def test_pages_of_different_questions_have_different_names(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    long = [f"suite:nano-{width}-seed0@last" for width in (8, 16, 32, 64)]
    asked = [["."], ["a"], ["a", "wiki-de"], ["loss", "a"], long, long[::-1]]
    places = [report._place(None, one) for one in asked]
    assert len(set(places)) == len(asked) and not any(place.name.startswith(".") for place in places)
