"""Parameters and operations are those of the real network; depths and lengths meet their budgets."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.measure.budgets import Shape, depth, steps
from lib.train import neox


@pytest.mark.parametrize("width, layers, vocabulary, tied", [(8, 1, 64, False), (32, 3, 200, True), (24, 2, 96, False)])
def test_counts_are_those_of_the_network(width, layers, vocabulary, tied):
    shape = Shape(width, layers, vocabulary, 16, tied)
    network = neox.model(width, layers, width // 8, vocabulary, 16, seed=0)
    if tied:
        network.lm_head.weight = network.gpt_neox.embed_in.weight
    assert shape.parameters == sum(p.numel() for p in network.parameters())
    inside = sum(p.numel() for p in network.gpt_neox.layers.parameters())
    assert shape.body == inside + sum(p.numel() for p in network.gpt_neox.final_layer_norm.parameters())
    assert shape.share == pytest.approx(1 - shape.body / shape.parameters)


def test_operations_are_those_that_torch_counts():
    shape = Shape(32, 3, 200, 16, False)
    network = neox.model(32, 3, 4, 200, 16, seed=0)
    network.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(2, 16, dtype=int))
    assert 3 * counter.get_total_flops() == shape.flops * 2 * 16
    assert shape.head_flops == 3 * 2 * 200 * 32


def test_a_factorised_output_saves_rows_and_pays_a_square():
    whole, cut = Shape(64, 2, 1000, 16, False), Shape(64, 2, 1000, 16, False, rank=16)
    assert whole.parameters - cut.parameters == 1000 * 64 - 16 * (1000 + 64)
    assert Shape(64, 2, 1000, 16, True, rank=64).output > whole.output


@pytest.mark.parametrize("kind", ["body", "parameters"])
def test_a_depth_is_the_nearest_to_its_budget(kind):
    found = depth(400_000, kind, 32, 4096, 128, True)
    near = [Shape(32, layers, 4096, 128, True) for layers in range(1, 60)]
    assert found == min(near, key=lambda shape: abs(getattr(shape, kind) - 400_000))


def test_steps_spend_the_budget():
    shape = Shape(16, 2, 4096, 128, True)
    assert steps(shape, 1e12, 512) * 512 * shape.flops == pytest.approx(1e12, rel=1e-3)


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match="another width or budget"):
        depth(300_000, "parameters", 128, 4096, 128, True)
    with pytest.raises(ValueError, match="expected one of body, parameters"):
        depth(300_000, "head", 16, 4096, 128, True)
    with pytest.raises(ValueError, match="less than a step"):
        steps(Shape(16, 2, 4096, 128, True), 1e6, 512)
    with pytest.raises(ValueError, match="width is 0"):
        Shape(0, 1, 8, 8, True)
    with pytest.raises(ValueError, match="rank is 9"):
        Shape(8, 1, 8, 8, True, rank=9)
