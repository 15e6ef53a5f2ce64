"""Predictions as data, parts of checkpoints, and a GPT-NeoX model whose offsets are planted: all found as they are."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from lib.data import parts, predictions
from lib.measure import offsets
from lib.study import predictions as task

WIDTH, V = 16, 100
ENTRY = """
[[prediction]]
name = "a"
quantity = "offset"
models = ["x"]
steps = [1]
least = 512
because = "b"
refuted = "c"
"""


@pytest.fixture
def model():
    torch.manual_seed(0)
    settings = GPTNeoXConfig(
        vocab_size=V, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    made = GPTNeoXForCausalLM(settings).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith("bias") or "norm" in name:
                value.copy_(torch.randn_like(value))
    return made


def plant(model, offset):
    """Add to the final norm's bias what makes the mean logit so large on average over the sphere of states."""
    with torch.no_grad():
        row = model.get_output_embeddings().weight.mean(0)
        bias = model.gpt_neox.final_layer_norm.bias
        bias += (offset - row @ bias) * row / (row @ row)


def save(model, folder, layout):
    if layout == "safetensors":
        model.save_pretrained(folder)
    elif layout == "shards":
        model.save_pretrained(folder, max_shard_size="8KB")
    else:
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return str(folder)


@pytest.mark.parametrize("layout", ["safetensors", "shards", "bin"])
def test_parts_are_the_models_own(tmp_path, model, layout):
    address, state = save(model, tmp_path, layout), model.state_dict()
    read = parts.read(address, "final_layer_norm.weight", "query_key_value.bias")
    assert len(read) == 3
    for name, tensor in read.items():
        assert torch.equal(tensor, state[name])
    with pytest.raises(ValueError, match="holds no tensor named ...nothing.weight"):
        parts.read(address, "nothing.weight")


def test_what_has_no_parts_is_told(tmp_path, model):
    with pytest.raises(ValueError, match="no parts to read"):
        parts.read("package:smollm2-135m", "norm.weight")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="no places"):
        parts.read(str(tmp_path), "norm.weight")
    (tmp_path / "pytorch_model.bin").unlink()
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="expected a GPT-NeoX model"):
        parts.read(str(tmp_path), "final_layer_norm.weight")


@pytest.mark.parametrize("offset", [0.0, 700.0])
def test_every_mean_logit_lies_in_the_interval_of_head_and_norm(tmp_path, model, offset):
    plant(model, offset)
    found = task.from_head(save(model, tmp_path, "safetensors")).set_index("quantity")
    with torch.no_grad():
        means = model(torch.arange(90).reshape(3, 30)).logits.mean(-1)
    low, high = found.loc["offset", ["low", "high"]]
    assert low <= means.min() and means.max() <= high
    assert (low + high) / 2 == pytest.approx(offset, abs=0.01)  # the planted one, in the middle
    assert abs(means.mean() - offset) < high - low


def test_the_interval_is_reached_and_no_wider():
    torch.manual_seed(1)
    direction, gain, bias = torch.randn(3, 8, dtype=torch.float64)
    low, high = offsets.spread_of(direction, gain, bias)
    pull = gain * direction
    worst = (pull - pull.mean()) / (pull - pull.mean()).norm() * 8**0.5
    assert direction @ (gain * worst + bias) == pytest.approx(high)
    norm = torch.nn.functional.layer_norm(torch.randn(2000, 8, dtype=torch.float64), (8,))
    inside = (gain * norm + bias) @ direction
    assert low <= inside.min() and inside.max() <= high


def test_a_dominant_mean_row_is_the_first_singular_vector():
    torch.manual_seed(2)
    noise = torch.randn(200, 8) - torch.randn(200, 8).mean(0)
    for size, share, cosine in ((0.0, 0.1, 0.4), (50.0, 0.99, 0.999)):
        head = noise - noise.mean(0) + size * torch.eye(8)[0]
        assert (offsets.mean_share(head) > share) == (size > 0)
        assert (offsets.first_on_ones(head) > cosine) == (size > 0)
    exact = torch.linalg.svd(head.double(), full_matrices=False).U[:, 0].sum().abs() / 200**0.5
    assert offsets.first_on_ones(head) == pytest.approx(float(exact))


def test_key_biases_bound_what_they_add_to_scores(tmp_path, model):
    with torch.no_grad():
        model.gpt_neox.layers[1].attention.query_key_value.bias.view(2, 3, 8)[1, 1] = 40.0  # keys of head 1
    found = task.from_attention(save(model, tmp_path, "bin")).set_index("quantity").low
    assert found.key_bias == pytest.approx(40 * 8**0.5)
    layer, seen = model.gpt_neox.layers[1].attention.query_key_value, []
    hook = layer.register_forward_hook(lambda _, __, fused: seen.append(fused[0].view(-1, 2, 3, 8)))
    with torch.no_grad():
        model(torch.arange(30)[None])
    hook.remove()
    added = seen[0][:, 1, 0, 2:].sum(1) * 40 / 8**0.5
    assert added.abs().max() <= found.key_reach


def test_rounding_costs_what_the_levels_say():
    assert offsets.rounding_cost(1500, 0.7, 10) == pytest.approx(0.7 / 24)
    assert offsets.rounding_cost(-3000, 0.7, 10) == pytest.approx(4 * 0.7 / 24)
    assert offsets.rounding_cost(0, 0.7, 10) == 0
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(4000, 50)) * 2)
    p = logits.softmax(1)
    half = (logits + 300).to(torch.float16).double()
    c = float(1 - p.square().sum(1).mean())
    excess = (half.logsumexp(1) - (p * half).sum(1) - logits.logsumexp(1) + (p * logits).sum(1)).mean()
    assert float(excess) == pytest.approx(offsets.rounding_cost(300, c, 10), rel=0.1)


def test_the_table_is_sound_and_covers_what_was_promised():
    table = predictions.predictions()
    models = {model for one in table for model in one.models}
    assert {"pythia-14m", "pythia-70m-v0", "pythia-1b", "pythia-1b-deduped", "pythia-410m"} <= models
    assert {one.quantity for one in table} == set(predictions.QUANTITIES)
    assert len({step for one in table for step in one.steps}) > 3
    assert (task.compared().answer == "").all()


@pytest.mark.parametrize(
    "change, message",
    [
        (("least = 512", ""), "give least, most, or both"),
        (("least = 512", "least = 512\nmost = 5"), "least below most"),
        (('"offset"', '"size"'), "expected one of offset"),
        (("steps = [1]", "steps = []"), "at least one model and one step"),
        (('refuted = "c"', ""), "expected name, quantity"),
        (('because = "b"', 'because = "b"\nwhy = 1'), "expected name, quantity"),
    ],
)
def test_what_is_no_prediction_is_refused(tmp_path, change, message):
    file = tmp_path / "p.toml"
    file.write_text(ENTRY)
    assert predictions.predictions(file)[0].interval == "at least 512"
    file.write_text(ENTRY.replace(*change))
    with pytest.raises(ValueError, match=message):
        predictions.predictions(file)
    file.write_text(ENTRY + ENTRY)
    with pytest.raises(ValueError, match="share a name"):
        predictions.predictions(file)


def test_an_interval_holds_is_refuted_or_leaves_it_open(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(ENTRY)
    (one,) = predictions.predictions(file)
    assert [predictions.judged(one, *ends) for ends in ((600, 700), (-5, 500), (400, 600))] == [
        "holds",
        "refuted",
        "open",
    ]
    with pytest.raises(ValueError, match="expected an interval"):
        predictions.judged(one, 2, 1)


def test_found_goes_against_predicted():
    where = "./{model}@step{step}"
    asked = task.points("head", where)
    assert {"address": "./pythia-70m@step143000"} in asked
    rows = [
        ("./pythia-70m@step143000", "offset", -9000.0, 9000.0),
        ("./pythia-70m@step143000", "offset", 1400.0, 1400.0),
    ]
    losses = [
        (f"./pythia-70m@step{step}", "loss", 3 + (step > 1e5), 3 + (step > 1e5))
        for step in (1000, 10000, 20000, 40000, 60000, 80000, 100000, 120000, 143000)
    ]

    found = pd.DataFrame(rows + losses, columns=["address", "quantity", "low", "high"])
    table = task.compared(found, where).query("model == 'pythia-70m' and step == 143000").set_index("quantity")
    assert (table.answer["offset"] == "holds").all() and table.answer["kept_rise"] == "holds"
    assert table.low["kept_rise"] == 1 and table.answer["first_on_ones"] == ""


def test_scores_and_costs_are_read_off_the_model(model):
    """The mean score of a query over the keys before it, against attention done by hand; costs against two losses."""
    layer, seen = model.gpt_neox.layers[1].attention.query_key_value, []
    with torch.no_grad():
        layer.bias.view(2, 3, 8)[1, 1] = 400.0
    hook = layer.register_forward_hook(lambda _, __, fused: seen.append(fused[0].view(-1, 2, 3, 8)))
    with torch.no_grad(), task._scores(model) as largest:
        logits = model(torch.arange(20)[None]).logits[0]
    hook.remove()
    queries, keys = seen[0][:, 1, 0, 2:], seen[0][:, 1, 1, 2:]
    by_hand = [abs(float((keys[: at + 1] @ queries[at]).mean())) / 8**0.5 for at in range(20)]
    assert max(largest) == pytest.approx(max(by_hand), rel=1e-5)
    labels = torch.zeros(20, dtype=torch.long)
    rows = pd.DataFrame(task._costs(logits + 1500, labels, 0.7)).mean()
    assert rows.offset == pytest.approx(float(logits.mean()) + 1500, abs=0.01)
    half = torch.nn.functional.cross_entropy((logits + 1500).half().float(), labels)
    assert rows.rounding_fp16 == pytest.approx(float(half) - rows.loss, abs=1e-5)
    assert rows.expected_fp16 == pytest.approx(0.7 / 24)
