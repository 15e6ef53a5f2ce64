"""Every causal language model class that there is: its head is read from its files, and its logits from its states."""

import pytest
import torch

from lib.data import architecture, checkpoints
from tests import tiny_models


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def model(request):
    try:
        return tiny_models.made(request.param)
    except ValueError as error:
        pytest.skip(f"no tiny instance: {error}")


def told(call, *arguments):
    """What it gives; a test ends as expected where it refuses with a sentence."""
    try:
        return call(*arguments)
    except ValueError as error:
        pytest.xfail(str(error))


def test_the_head_in_the_files_is_the_models(model, tmp_path):
    model.save_pretrained(tmp_path)
    found = told(checkpoints.head, str(tmp_path))
    assert torch.equal(found, model.get_output_embeddings().weight)


@torch.no_grad()
def test_its_logits_are_those_of_the_states_that_enter_its_head(model):
    found, seen = told(architecture.readout, model), []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = torch.arange(5, 41).view(3, 12)
    right = model(ids, use_cache=False).logits
    hook.remove()
    assert (found.logits(seen[-1]) - right).abs().max() <= 1e-4
    assert torch.equal(architecture.last_states(model, ids), seen[-1])


@torch.no_grad()
def test_before_the_last_norm_is_what_it_makes_the_heads_states_of(model):
    """The last norm that ran, by its name as a part of the model: its output, or a scaled or narrower one, goes on."""
    ran, ids = [], torch.arange(5, 41).view(3, 12)
    with told(architecture.before_last_norm, model) as before:
        ends = [
            part.register_forward_hook(lambda part, inputs, output: ran.append((part, inputs[0], output)))
            for name, part in model.named_modules()
            if "norm" in type(part).__name__.lower() and not list(part.children())
        ]
        told(lambda: model(ids, use_cache=False))
    for end in ends:
        end.remove()
    part, entered, left = ran[-1]
    assert torch.equal(before["states"], entered) and before["states"].shape[:2] == ids.shape
