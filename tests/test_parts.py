"""Parts of a model on the hub: the tensors asked for, by ranges, and nothing like the whole file."""

import pytest
import torch

from lib.data import parts
from lib.measure import offsets
from lib.study import predictions
from tests.test_hub import call, files, home, model, repository, sent, server, start

__all__ = ["call", "home", "repository", "server", "start"]  # fixtures


def read(address):
    found = parts.read(address, "final_layer_norm.weight", "query_key_value.bias")
    return {name: tensor.numpy() for name, tensor in found.items()}


def depth(address):
    return parts.config(address).num_hidden_layers


@pytest.mark.parametrize("layout", ["safetensors", "shards", "bin", "bin-shards"])
def test_parts_come_by_ranges_from_every_layout(call, server, repository, layout):
    name, repo = repository
    saved = model()
    body = files(saved, layout)
    repo.add("step1000", body)
    found = call(read, f"{name}@step1000")
    assert len(found) == 3
    state = saved.state_dict()
    for key, value in found.items():
        (own,) = [part for own, part in state.items() if own.split(".", 1)[1] == key.split(".", 1)[1]]
        assert (value == own.numpy()).all()
    assert sent(server) < sum(map(len, body.values())) - 50_000  # the file is small beside what is read ahead
    assert call(depth, f"{name}@step1000") == 2


def test_an_offset_is_bounded_without_the_body(call, server, repository):
    """As a reader with a hub gets it: a head, a final norm, key biases, from a .bin such as the first release has."""
    name, repo = repository
    saved = model(seed=3)
    with torch.no_grad():
        saved.gpt_neox.final_layer_norm.bias += 5.0
        saved.gpt_neox.layers[0].attention.query_key_value.bias += 2.0
    repo.add("step1000", files(saved, "bin"))
    found = call(predictions.from_head, f"{name}@step1000").set_index("quantity")
    norm = saved.gpt_neox.final_layer_norm
    wanted = offsets.head_offset(
        saved.get_output_embeddings().weight.detach(), norm.weight.detach(), norm.bias.detach()
    )
    assert tuple(found.loc["offset"]) == pytest.approx(wanted)
    biases = call(predictions.from_attention, f"{name}@step1000").set_index("quantity")
    assert biases.low["key_bias"] == pytest.approx(2 * 8**0.5)
