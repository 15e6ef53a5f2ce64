"""Some tensors of a GPT-NeoX checkpoint by name, from the hub by range requests, without the rest of the body.

A final norm is a few kilobytes, the rows that make a head's queries a few hundred: a reader who has a question about
them need not fetch a model.
"""

import json
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

import torch
from huggingface_hub import hf_hub_download, model_info
from safetensors.torch import load
from transformers import PreTrainedConfig

from lib.data import hub, pickled, ranges, tensors, weights
from lib.data.checkpoints import parse


def read(address: str, *endings: str) -> dict[str, torch.Tensor]:
    """Tensors whose names end so, by name without wrappers, in their stored dtype.

    Reads a hub's safetensors or .bin (of PyTorch 1.6 or later), and a folder. Raises ValueError where an ending is
    found nowhere, or the file has no places.
    """
    parsed = parse(address)
    if parsed.kind == "hub":
        pinned = hub.commit(parsed.name, parsed.revision)
        with hub.explained(parsed.name, parsed.revision):
            names = [file.rfilename for file in model_info(parsed.name, revision=pinned).siblings]
            return named(names, lambda name: ranges.opened(parsed.name, name, pinned), endings)
    folder = _folder(parsed)
    names = [path.name for path in folder.iterdir() if path.is_file()]
    return named(names, lambda name: (folder / name).open("rb"), endings)


def config(address: str) -> PreTrainedConfig:
    """The configuration of a model on the hub or in a folder."""
    parsed = parse(address)
    if parsed.kind == "hub":
        pinned = hub.commit(parsed.name, parsed.revision)
        with hub.explained(parsed.name, parsed.revision):
            return weights.config(Path(hf_hub_download(parsed.name, "config.json", revision=pinned)).parent)
    return weights.config(_folder(parsed))


def named(
    names: Collection[str], open_file: Callable[[str], BinaryIO], endings: Collection[str]
) -> dict[str, torch.Tensor]:
    """The tensors with those endings in a checkpoint of files `names`, as `read`."""
    name = tensors.weights_name(names)
    if name.endswith(".json"):
        with tensors.open_whole(name, names, open_file) as index:
            files = tensors.weight_map(index.read())
        shards = sorted({shard for key, shard in files.items() if tensors.unwrapped(key).endswith(tuple(endings))})
    else:
        shards = [name]
    found = {}
    for shard in shards:
        with tensors.open_whole(shard, names, open_file) as file:
            found |= (_safetensors if shard.endswith(".safetensors") else _zipped)(file, shard, tuple(endings))
    if missing := [ending for ending in endings if not any(key.endswith(ending) for key in found)]:
        raise ValueError(f"{name} holds no tensor named ...{missing[0]}: expected a GPT-NeoX model; use another")
    return found


def _folder(parsed):
    folder = Path(parsed.name).expanduser() / (parsed.revision or "")
    if parsed.kind != "folder" or not folder.is_dir():
        raise ValueError(f"{parsed} has no parts to read: expected org/name@revision or a folder that exists")
    return folder


def _safetensors(file, name, endings):
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= tensors.LARGEST_HEADER:
        raise ValueError(f"{name} is not a safetensors file: its header claims {length} bytes; fetch it again")
    entries, found = json.loads(file.read(length)), {}
    for key, entry in entries.items():
        if tensors.unwrapped(key).endswith(endings):
            first, last = entry["data_offsets"]
            data = bytearray(last - first)
            tensors.fill(file, 8 + length + first, memoryview(data))
            text = json.dumps({"it": entry | {"data_offsets": [0, last - first]}}).encode()
            found[tensors.unwrapped(key)] = load(len(text).to_bytes(8, "little") + text + bytes(data))["it"]
    return found


def _zipped(file, name, endings):
    if not pickled.is_zip(file):
        raise ValueError(f"{name} is from before PyTorch 1.6 and has no places: expected another revision")
    places, records = pickled.directory(file, name)
    found = {}
    with zipfile.ZipFile(file) as archive:
        for key, place in places.items():
            if tensors.unwrapped(key).endswith(endings):
                if not place.is_contiguous():
                    raise ValueError(f"{key} in {name} is stored with gaps: save it again as .contiguous()")
                with archive.open(records[place.untyped_storage().record]) as record:
                    record.read(place.storage_offset() * place.dtype.itemsize)
                    data = bytearray(record.read(place.numel() * place.dtype.itemsize))
                found[tensors.unwrapped(key)] = torch.frombuffer(data, dtype=place.dtype).reshape(place.shape)
    return found
