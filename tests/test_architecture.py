"""A model's own loss: whatever it does to its logits after the head, or a sentence that says what can't be taken."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lib.data import architecture, corpora
from lib.study import anisotropy, heads, spectra, theory

TINY = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MLP = {"intermediate_size": 32, "num_key_value_heads": 2}
CONTEXT = 16


def neox():
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**TINY, intermediate_size=32))


def biased():
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**TINY, **MLP))
    torch.nn.init.normal_(model.lm_head.bias, std=2)
    return model


MADE = {
    "plain": neox,
    "scaled": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**TINY, **MLP, logit_scale=1 / 16)),
    "divided": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(**TINY, **MLP, logits_scaling=3.0)),
    "capped": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**TINY, **MLP, head_dim=8, final_logit_softcapping=0.5)
    ),
    "biased": biased,
    "narrow": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(**TINY, ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=64)
    ),
}


@pytest.fixture(params=MADE)
def model(request):
    torch.manual_seed(0)
    made = MADE[request.param]().eval()
    with torch.no_grad():  # logits of the size that trained models have
        for parameter in made.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
    return made


@pytest.fixture
def address(model, tmp_path, monkeypatch):
    """The model in a folder, and random documents as its corpus."""
    backend = Tokenizer(models.WordLevel({f"w{index}": index for index in range(97)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w0").save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    stream = np.random.default_rng(0).integers(1, 97, 641).astype(np.int32)
    monkeypatch.setattr(corpora, "tokens", lambda *_: stream)
    monkeypatch.setattr(corpora, "token_documents", lambda *_: (stream, np.arange(0, 641, 32)))
    return str(tmp_path / "model"), stream


def test_a_readout_gives_the_logits_of_the_model(model):
    ids = torch.randint(1, 97, (3, 9))
    with torch.no_grad():
        states, right = architecture.last_states(model, ids), model(ids).logits
    found = architecture.readout(model)
    assert (found.logits(states) - right).abs().max() <= 1e-5 * right.abs().max()
    assert found.scale == pytest.approx(
        {"CohereForCausalLM": 1 / 16, "GraniteForCausalLM": 1 / 3}.get(type(model).__name__, 1), rel=1e-6
    )
    assert found.cap == (0.5 if "Gemma" in type(model).__name__ else None)
    assert (found.bias is not None) == ("Phi" in type(model).__name__)


def test_losses_of_tasks_are_those_of_the_model(model, address):
    """Each either is the loss of the model's own logits on the same text, or says what it can't take."""
    where, stream = address
    inputs, labels = (torch.from_numpy(part.astype(np.int64)).view(-1, CONTEXT) for part in (stream[:-1], stream[1:]))
    with torch.no_grad():
        logits = model(inputs).logits
    own = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    blind = spectra.blindness(where, "wiki-en", len(labels.flatten()), CONTEXT)
    assert blind["loss"] == pytest.approx(own, abs=1e-4)
    assert blind["kl"] == pytest.approx(0, abs=1e-6) or architecture.readout(model).cap
    documents = [d[:-1] for d in np.split(stream[:640].astype(np.int64), 20)]
    expected = []
    for document in documents:
        with torch.no_grad():
            logits = model(torch.tensor([[0, *document]])).logits[0, 1:-1]
        expected += torch.nn.functional.cross_entropy(logits, torch.tensor(document[1:]), reduction="none").tolist()
    measured = anisotropy.checkpoint(where, "wiki-en", sum(map(len, documents)), longest=40)
    assert measured["loss"] == pytest.approx(np.mean(expected), abs=1e-4)
    found = architecture.readout(model)
    if found.bias is not None or found.cap:
        for task in (
            lambda: heads.fidelity(where, "wiki-en", 512, CONTEXT),
            lambda: theory.real_head(where, "wiki-en", 512, [4], CONTEXT, 512, every=1),
        ):
            with pytest.raises(ValueError, match="a bias on its logits|a soft cap at 0.5 on its logits"):
                task()
        return
    same = heads.fidelity(where, "wiki-en", 512, CONTEXT)
    assert same["kept"] == pytest.approx(same["float32"], abs=1e-4)
    real = theory.real_head(where, "wiki-en", 640, [4], CONTEXT, 640, every=1)
    assert real["loss"].mean() == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize(("scale", "cap"), [(0.123456789, 0.01), (0.123456789, 30.0), (4.0, 30.0), (1000.0, 2e4)])
def test_a_scale_under_a_cap_is_found(scale, cap):
    model = neox().eval()
    model.get_output_embeddings().register_forward_hook(lambda _, i, output: cap * torch.tanh(output * scale / cap))
    found, ids = architecture.readout(model), torch.randint(1, 97, (3, 9))
    with torch.no_grad():
        right = model(ids).logits
    logits = found.logits(architecture.last_states(model, ids))
    assert (logits - right).abs().max() <= 1e-4 * right.abs().max()


def test_what_a_readout_cannot_express_is_named():
    model = neox().eval()
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, output: output + output.square())
    with pytest.raises(ValueError, match="GPTNeoXForCausalLM does more to its logits"):
        architecture.readout(model)
    for bend in (lambda z: z.clamp(max=25), lambda z: torch.where(z > 12, 12 + (z - 12) / 9, z)):  # of large ones only
        model = neox().eval()
        model.get_output_embeddings().register_forward_hook(lambda _, inputs, output, bend=bend: bend(output))
        with pytest.raises(ValueError, match="does more to its logits"):
            architecture.readout(model)
    model = neox().eval()
    model.get_output_embeddings().weight.data.zero_()
    with pytest.raises(ValueError, match="its head is zero"):
        architecture.readout(model)
    encoder = transformers.BertModel(transformers.BertConfig(**TINY, intermediate_size=32))
    with pytest.raises(ValueError, match="no head that is a matrix"):
        architecture.readout(encoder)


def test_entering_leaves_the_model_as_it_was():
    model, ids = neox().eval(), torch.randint(1, 97, (2, 5))
    with torch.no_grad():
        before = model(ids).logits
        with architecture.entering(model) as seen:
            assert model(ids).logits.shape[-1] == 1
        assert torch.equal(model(ids).logits, before)
        assert torch.equal(model.get_output_embeddings()(seen[0]), before)


def test_a_cast_keeps_the_frequencies_of_positions():
    model = architecture.cast(neox(), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()} == {torch.float32}
