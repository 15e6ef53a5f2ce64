"""A model by address, NAME@REVISION: on the hub, in a folder, in an archive of the package index, or in the suite.

EleutherAI/pythia-70m@step3000    a repository of the hub
./my-model                        a folder as transformers saves it; ./run@step512 is its subfolder step512
./my-model.gguf                   a GGUF, or any part of one that is split
./my-model.safetensors            weights with config.json beside them
package:smollm2-135m              inside a pinned archive; also package:gemma3-270m
suite:nano-16-seed0@step512       trained by `make suite`

package:neox-20b (also Pythia's) and package:gpt2 are tokenizers only.
Checkpoints are untrusted: safetensors or weights-only unpickling, and no code of a repository is ever run.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from lib.data import files, hub, weights
from lib.data.cache import ROOT, cache, once
from lib.data.sources import fetch, source

MODELS = ("smollm2-135m", "gemma3-270m")
TOKENIZERS = ("neox-20b", "gpt2")


@dataclass(frozen=True)
class Address:
    """Where a model is."""

    kind: str  # hub, folder, package or suite
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        prefix = f"{self.kind}:" if self.kind in ("package", "suite") else ""
        return f"{prefix}{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse(address: str) -> Address:
    """The parts of an address. Raises ValueError for what is none, or names no package that there is."""
    name, _, revision = address.partition("@")
    kind, colon, rest = name.partition(":")
    if name.startswith((".", "/", "~")):
        return Address("folder", name, revision or None)
    if colon and kind in ("package", "suite") and rest:
        if kind == "package" and (rest not in MODELS + TOKENIZERS or revision):
            raise ValueError(
                f"unknown model {address!r}: expected package:NAME with NAME one of "
                f"{', '.join(MODELS + TOKENIZERS)}, without a revision"
            )
        return Address(kind, rest, revision or None)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and address == name + (f"@{revision}" if revision else ""):
        return Address("hub", name, revision or None)
    raise ValueError(
        f"{address!r} is no address of a model: expected org/name@revision, ./folder, package:name or suite:run@step512"
    )


def load(
    address: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model, in evaluation mode, and tokenizer. Raises ValueError where there is none at the address."""
    parsed = parse(address)
    model = weights.load(_folder(parsed), dtype)
    return model.to(device), tokenizer(address)


def tokenizer(address: str) -> PreTrainedTokenizerFast:
    """Only the tokenizer of a model, or one of those that come without a model. Raises ValueError without one."""
    parsed = parse(address)
    if parsed.kind == "package" and parsed.name in TOKENIZERS:
        return _packaged_tokenizer(parsed.name)
    folder = hub.folder(parsed.name, parsed.revision, model=False) if parsed.kind == "hub" else _folder(parsed)
    weights.check_vocabulary(folder)
    try:
        # The file as it is: AutoTokenizer builds some of its parts anew, after the model's type.
        kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each class of tokenizers refuses files in its own way
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the tokenizer in {folder} can't be read ({reason}): fetch it again") from error


def head(address: str, rows: int | None = None) -> torch.Tensor:
    """Output embedding (V, d) in its stored dtype, read without the body; rows: keep the first so many.

    From the hub only the head's own bytes are fetched, once. A tied head is the input embedding.
    Raises ValueError where there is no head, or fewer rows.
    """
    parsed = parse(address)
    if parsed.kind == "hub":
        return hub.head(parsed.name, parsed.revision, rows)
    if (file := _file(parsed)) and file.suffix == ".gguf":
        return files.head(file, rows)
    return weights.read_head(_folder(parsed), rows)


def revisions(name: str) -> list[str]:
    """Revisions of a model, by training step where their names are steps, then by name; [] where there is just one."""
    parsed = parse(name)
    if parsed.kind == "hub":
        return sorted(hub.revisions(parsed.name), key=_order)
    if parsed.kind == "suite":
        return [f"step{step}" for step in sorted(_run(parsed)["steps"])]
    if parsed.kind == "folder" and not _file(parsed):
        return sorted((path.parent.name for path in _existing(parsed).glob("*/config.json")), key=_order)
    return []


def fingerprint(address: str) -> str:
    """What the weights at an address are: changes whenever they do."""
    parsed = parse(address)
    if parsed.kind == "hub":
        return f"{parsed.name}@{hub.commit(parsed.name, parsed.revision)}"
    if parsed.kind == "package":
        return source(parsed.name).folder.name
    if parsed.kind == "suite":
        return f"{_run(parsed)['key']}@{_step(parsed)}"
    if file := _file(parsed):
        return files.fingerprint(file)
    digest = hashlib.sha256()
    for file in sorted(path for path in _existing(parsed).iterdir() if path.is_file()):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def available(address: str) -> bool:
    """Whether loading needs no download and no consent."""
    parsed = parse(address)
    if parsed.kind == "hub":
        return hub.cached(parsed.name, parsed.revision)
    if parsed.kind == "package":
        return source(parsed.name).state == "ready"
    try:
        return _file(parsed) is not None or weights.complete(_folder(parsed))
    except ValueError:
        return False


def download_size(address: str) -> dict[str, int]:
    """Bytes that head() and load() would still fetch from the hub, as `head` and `model`; 0 for what is not there."""
    parsed = parse(address)
    if parsed.kind != "hub":
        return {"head": 0, "model": 0}
    return hub.download_size(parsed.name, parsed.revision)


def _folder(address: Address) -> Path:
    """The folder with the files of a model, fetched from the hub or made from an archive where it is not there yet."""
    if address.kind == "hub":
        return hub.folder(address.name, address.revision)
    if address.kind == "package":
        if address.name in TOKENIZERS:
            raise ValueError(f"{address} is a tokenizer only: expected package:NAME with one of {', '.join(MODELS)}")
        return once(cache() / "models" / source(address.name).folder.name, lambda path: _convert(path, address.name))
    if address.kind == "suite":
        return _suite() / _run(address)["path"] / _step(address)
    file = _file(address)
    return files.folder(file) if file else _existing(address)


def _file(address: Address) -> Path | None:
    """The file that an address names, where it names one. Raises ValueError where it is not there."""
    if address.kind != "folder" or not address.name.endswith(files.KINDS):
        return None
    for base in (Path.cwd(), ROOT):
        if (file := base / Path(address.name).expanduser()).is_file():
            return file
    if any((base / Path(address.name).expanduser()).is_dir() for base in (Path.cwd(), ROOT)):
        return None
    raise ValueError(f"there is no file {address.name}: expected a GGUF or .safetensors file, or a folder")


def _existing(address: Address) -> Path:
    """The folder that an address names, relative to the working directory or to the root of the book."""
    tail = Path(address.name).expanduser() / (address.revision or "")
    for base in (Path.cwd(), ROOT):
        if (base / tail).is_dir():
            return base / tail
    raise ValueError(f"there is no folder {tail}: expected one as save_pretrained writes it")


def _suite() -> Path:
    return cache() / "suite"


def _run(address: Address) -> dict:
    index = _suite() / "index.json"
    runs = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    if address.name not in runs:
        known = f"trained are {', '.join(sorted(runs))}" if runs else "nothing is trained yet"
        raise ValueError(f"the suite has no run {address.name!r} ({known}): run `make suite`")
    return runs[address.name]


def _step(address: Address) -> str:
    steps = _run(address)["steps"]
    step = address.revision or f"step{max(steps)}"
    if step not in [f"step{known}" for known in steps]:
        raise ValueError(f"{address} was not kept: expected one of step{', step'.join(map(str, sorted(steps)))}")
    return step


def _order(revision: str) -> tuple[int, int, str]:
    """Steps in order, before all other names."""
    step = re.fullmatch(r"step(\d+)", revision)
    return (0, int(step[1]), "") if step else (1, 0, revision)


def _convert(path: Path, name: str) -> None:
    """An archive holds a GGUF cut into pieces of bytes."""
    pieces = sorted(fetch(name).rglob("*.gguf*"))
    whole = path.with_suffix(".gguf")
    try:
        with whole.open("wb") as out:
            for piece in pieces:
                out.write(piece.read_bytes())
        files.from_gguf(path, [whole])
    finally:
        whole.unlink(missing_ok=True)


def _packaged_tokenizer(name: str) -> PreTrainedTokenizerFast:
    folder = fetch(name)
    if name == "neox-20b":
        (file,) = folder.rglob("20B_tokenizer.json")
        return PreTrainedTokenizerFast(tokenizer_file=os.fspath(file), eos_token="<|endoftext|>")
    (vocabulary,), (merges,) = folder.rglob("encoder.json"), folder.rglob("vocab.bpe")
    bytes_pairs = Tokenizer(models.BPE.from_file(os.fspath(vocabulary), os.fspath(merges)))
    bytes_pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_pairs.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_pairs, eos_token="<|endoftext|>")
