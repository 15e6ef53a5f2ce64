"""A model in one file: a GGUF, whole or in parts, or a .safetensors with its configuration beside it.

Either becomes a folder in the cache, from which everything else reads. Of a GGUF only the head is needed for the head.
"""

import hashlib
import os
import re
from pathlib import Path

import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter, dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from lib.data import named, tensors
from lib.data.cache import cache, once

KINDS = (".gguf", ".safetensors")
HEADS = ("output.weight", "token_embd.weight")  # in a GGUF: its own, or the input embedding where they are tied
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")  # one file of several, in either format


def folder(file: Path) -> Path:
    """The folder of a model that a file holds, made once for each state of the file. Raises ValueError."""
    if file.suffix == ".gguf":
        return once(cache() / "models" / f"gguf-{fingerprint(file)}", lambda path: from_gguf(path, parts(file)))
    if PART.fullmatch(file.name):
        raise ValueError(f"{file.name} is one of several files: expected the folder that holds them, {file.parent}")
    if not file.with_name("config.json").is_file():
        raise ValueError(f"{file} is weights alone: expected config.json and a tokenizer beside it")
    state = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    return once(cache() / "models" / f"file-{key}", lambda path: _beside(path, file))


def head(file: Path, rows: int | None = None) -> torch.Tensor:
    """The head (V, d) of a GGUF, float32 where it is quantised, or its first rows. Raises ValueError without one."""
    found = {tensor.name: tensor for part in parts(file) for tensor in _opened(part).tensors}
    name = next((name for name in HEADS if name in found), None)
    if name is None:
        raise ValueError(f"{file.name} holds no head: expected one of {', '.join(HEADS)}")
    shape = tuple(int(side) for side in reversed(found[name].shape))
    kept = tensors.kept_rows(shape, rows)
    return torch.from_numpy(dequantize(found[name].data[:kept], found[name].tensor_type).copy())


def parts(file: Path) -> list[Path]:
    """All files of a GGUF of which one is given. Raises ValueError where any is absent."""
    match = PART.fullmatch(file.name)
    if match is None:
        return [file]
    names = [f"{match[1]}-{number:05}-of-{match[3]}{match[4]}" for number in range(1, int(match[3]) + 1)]
    for name in names:
        if not (file.parent / name).is_file():
            raise ValueError(f"{name} is absent though {file.name} is one of {int(match[3])}: finish the download")
    return [file.parent / name for name in names]


def fingerprint(file: Path) -> str:
    """What a model in a file is: changes whenever its weights or, of a .safetensors, its configuration do."""
    digest, beside = hashlib.sha256(), file.with_name("config.json")
    for path in parts(file) if file.suffix == ".gguf" else [file, *[beside] * beside.is_file()]:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def from_gguf(path: Path, files: list[Path]) -> None:
    """GGUF to a folder of float32 safetensors, which loads a hundred times faster. Raises ValueError."""
    path.mkdir()
    whole = path / "model.gguf"
    if len(files) == 1:
        _opened(files[0])
        whole.symlink_to(files[0].resolve())
    else:
        _merge(whole, files)
    try:
        with named.quiet():
            model = AutoModelForCausalLM.from_pretrained(path, gguf_file=whole.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=whole.name)
    except Exception as error:  # each architecture refuses files in its own way
        raise ValueError(
            f"transformers can't read {files[0].name} ({named.line(error)}): use the model's safetensors instead"
        ) from error
    # The weights are plain float32 from here on: what remembers their quantisation would stop them being saved.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    whole.unlink()


def _opened(file):
    with tensors.open_whole(file.name, [file.name], lambda _: file.open("rb")):
        pass
    try:
        return GGUFReader(file)
    except Exception as error:  # a file cut short fails in whatever part is read last
        raise ValueError(f"{file.name} is corrupt ({named.line(error)}): expected a GGUF; fetch it again") from error


def _merge(whole, files):
    """The files that llama.cpp's gguf-split makes of one, as that one."""
    readers = [_opened(file) for file in files]
    settings = readers[0].fields
    writer = GGUFWriter(whole, settings["general.architecture"].contents())
    for name, field in settings.items():
        if not name.startswith(("GGUF.", "split.")) and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    found = [tensor for reader in readers for tensor in reader.tensors]
    for tensor in found:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in found:
        writer.write_tensor_data(tensor.data)
    writer.close()


def _beside(path, file):
    """A folder in which the file has the name that transformers looks for, beside the files that it has there."""
    path.mkdir()
    for other in file.parent.iterdir():
        if other.is_file() and other.suffix in (".json", ".txt", ".model", ".jinja") and "index" not in other.name:
            (path / other.name).symlink_to(other.resolve())
    (path / "model.safetensors").symlink_to(os.path.abspath(file))
