"""The paper profile from end to end: its chapters on tiny models under the paper's names, from a hub on loopback."""

import io
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
import transformers
import yaml

from lib.data import corpora
from lib.run import chapter
from lib.train.tokenizer import train_tokenizer
from tests.conftest import ROOT, run
from tests.hub_server import Hub

STEPS = (0, 1000, 40000, 70000, 100000, 143000)
SMALL = {  # what makes a chapter quick; everything else is the profile's
    "03_saturation": {"steps": [0, 1000, 40000, 100000], "tokens": 2000, "draws": 50, "items": 6, "synthetic": 10},
    "04a_anisotropy": {
        "steps": [0, 40000, 70000, 100000], "tokens": 2000, "held_out_tokens": 2000, "sizes": [3, 6], "removed": [0, 2],
    },
    "04b_spectra": {"steps": [0, 40000, 70000], "tokens": 2048, "held_out_tokens": 2000},
    "05a_rank_heads": {
        "context": 64, "tokens": 16384, "validation": 2048, "ranks": [1, 2, 4, 8, 12, 24], "train_ranks": [2, 8, 24],
        "more_ranks": [12], "lengths": [12, 6, 3, 2], "seeds": [0], "train": 8192, "batch": 512, "search": 3,
        "random_rates": [0.01, 0.03], "cut_rates": [0.001, 0.01], "gap_rank": 12, "draws": 100, "calibration": 1024,
    },
    "05b_ngram_rank": {
        "corpora": ["hub:wikitext", "hub:imdb", "hub:pile"], "exact": ["hub:imdb"], "grown": ["hub:wikitext"],
        "tokenizers": ["package:neox-20b"], "contexts": 5000, "sweep_contexts": [1000, 5000], "min_counts": [2],
        "sizes": 6, "known_ranks": [30], "draws": [1, 4], "known_vocabulary": 1024, "kneser_ney": False,
    },
    "explorer": {
        "runs": ["EleutherAI/pythia-14m", "EleutherAI/pythia-1b"], "steps": [0], "tokens": 2000,
        "held_out_tokens": 2000,
    },
    "05c_theory": {
        "ranks": [1, 4, 7, 10], "starts": 1, "skews": [1.0], "temperatures": [0.5, 1.0], "context": 64,
        "contexts": 2048, "held_out": 512, "every": 8, "real_ranks": [2, 4, 8, 12],
    },
}  # fmt: skip


def profile():
    """The values of the paper profile."""
    return yaml.safe_load((chapter.BOOK / "profiles" / "paper.yml").read_text())


def names(value):
    """Repositories of models anywhere in it."""
    if isinstance(value, (dict, list)):
        return {name for one in (value.values() if isinstance(value, dict) else value) for name in names(one)}
    return {value.partition("@")[0]} if isinstance(value, str) and "/" in value else set()


def model(name, vocabulary):
    """Random weights in the architecture that the name stands for."""
    torch.manual_seed(sum(map(ord, name)))
    size = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "hidden_size": 16}
    if "pythia" in name:
        width = {"410m": 16, "1b": 24, "1.4b": 24, "2.8b": 32}.get(re.search(r"pythia-([\d.]+[mb])", name)[1], 8)
        size |= {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**size))
    if "gpt2" in name:
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, n_layer=2, n_head=2))
    size |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    if "opt" in name:
        return transformers.OPTForCausalLM(
            transformers.OPTConfig(**size, ffn_dim=32, word_embed_proj_dim=16, pad_token_id=0)
        )
    size |= {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 32, "pad_token_id": 0}
    return transformers.GemmaForCausalLM(transformers.GemmaConfig(**size))


@pytest.fixture(scope="module")
def hub():
    """A server with every model and corpus of the profile: real text, random weights."""
    texts = list(corpora.documents("wiki-en")["text"][:600])
    tokenizer, server = train_tokenizer(texts, 512), Hub()
    for name in names(profile()):
        for step in STEPS if "pythia" in name else ["main"]:
            with tempfile.TemporaryDirectory() as folder:
                model(f"{name} {step}", len(tokenizer)).save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                branch = f"step{step}" if "pythia" in name else step
                server.model(name).add(branch, {path.name: path.read_bytes() for path in Path(folder).iterdir()})
    lines = [line for number, text in enumerate(texts) for line in (f" = Article {number} = \n", text)]
    readme = (
        "---\nconfigs:\n- config_name: wikitext-103-raw-v1\n  data_files:\n  - split: train\n    path: raw/*\n---\n"
    )
    server.dataset("Salesforce/wikitext").add("main", {"README.md": readme.encode(), "raw/0.parquet": table(lines)})
    for name in ("stanfordnlp/imdb", "EleutherAI/the_pile_deduplicated"):
        server.dataset(name).add("main", {"data/train-00000-of-00001.parquet": table(texts)})
    yield server
    server.close()


def table(texts):
    """A file as the hub keeps corpora."""
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """An empty cache, but for the packaged archives."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "sources").symlink_to(ROOT / ".cache" / "sources")
    return folder


def test_every_chapter_of_the_paper_profile(hub, cache):
    places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache / "hf"), "BOOK_CACHE": str(cache), "NO_PROXY": "*"}

    def execute(name):
        asked = [part for key, value in SMALL[name].items() for part in ("-p", key, value)] + ["-p", "device", "cpu"]
        command = "lib.run.chapter", name, "--profile", "paper", "--out", "_build/test-paper", *asked
        run(*command, OMP_NUM_THREADS="1", **places)

    with ThreadPoolExecutor(2) as two:
        list(two.map(execute, SMALL))
