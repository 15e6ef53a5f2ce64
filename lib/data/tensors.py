"""One tensor out of a checkpoint file, reading only its place in the file and its own bytes.

A file is anything binary that can be read and sought: a local file, or one on a server read by ranges (lib.data.hub).
Checkpoints are untrusted: a pickle is read by an unpickler that knows state dicts and nothing else.
"""

import collections
import io
import json
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

HEADS = ("embed_out.weight", "lm_head.weight", "output_layer.weight")  # GPT-NeoX's files; most others; Megatron's
INPUTS = ("embed_in.weight", "wte.weight", "embed_tokens.weight", "word_embeddings.weight")  # serve as tied heads
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
LARGEST_DIRECTORY = 100 << 20  # bytes; the limit of the safetensors format, far above any state dict's pickle

Choose = Callable[[Iterable[str], str], str]  # (keys, name of the file) -> key of the head

_SAFETENSORS_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_STORAGE_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # first byte, in the file; in a .bin at first: in its storage
    storage: str = ""  # record of a .bin

    @property
    def bytes(self) -> int:
        """Length in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def find_head(
    names: Iterable[str], open_file: Callable[[str], BinaryIO], tied: bool
) -> tuple[str, BinaryIO | None, Place | None]:
    """The file of a checkpoint that holds its head, opened, and the head's place in it.

    names: the files there are; open_file(name) opens one; tied: the input embedding may serve.
    A .bin from before PyTorch 1.6 is no zip and has no places: then file and place are None.
    Raises ValueError where no file holds a head, or one is not what its name says.
    """

    def choose(keys: Iterable[str], where: str) -> str:
        key = head_key(keys, tied)
        if key is None:
            raise ValueError(f"{where} holds no head: expected one of {', '.join(HEADS)}, or a tied input embedding")
        return key

    present = [name for name in WEIGHTS if name in set(names)]
    if not present:
        raise ValueError(f"there are no weights: expected one of {', '.join(WEIGHTS)}")
    name = present[0]
    try:
        if name.endswith(".json"):
            with open_file(name) as index:
                shards = weight_map(index.read())
            name = shards[choose(shards, name)]
        file = open_file(name)
        if name.endswith(".safetensors"):
            return name, file, _in_safetensors(file, name, choose)
        if file.read(4) != b"PK\3\4":
            file.close()
            return name, None, None
        return name, file, _in_zip(file, name, choose)
    except (zipfile.BadZipFile, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{name} is corrupt ({error!r}): expected a checkpoint; fetch it again") from error


def head_key(keys: Iterable[str], tied: bool) -> str | None:
    """The tensor that is the head among those of a checkpoint: its own, or the input embedding where they are tied."""
    for ending in HEADS + (INPUTS if tied else ()):
        found = [key for key in keys if key == ending or key.endswith("." + ending)]
        if found:
            return min(found, key=len)  # the model's own, not that of a part of it
    return None


def weight_map(index: bytes) -> dict[str, str]:
    """Tensor -> file of a sharded checkpoint, from its index. Raises ValueError where a file is not a plain name."""
    files = json.loads(index)["weight_map"]
    for name in files.values():
        if PurePosixPath(name).name != name or not name.endswith((".safetensors", ".bin")) or set(name) & set("\\:"):
            raise ValueError(
                f"the index of the shards points at {name!r}: expected the name of a file beside it; "
                "do not use this checkpoint"
            )
    return files


def read(file: BinaryIO, place: Place, rows: int | None = None) -> torch.Tensor:
    """The matrix at that place, (V, d) in its stored dtype, or its first rows only.

    Raises ValueError where there are fewer rows, or the file ends too early.
    """
    place = replace(place, shape=(kept_rows(place.shape, rows), place.shape[1]))
    buffer = bytearray(place.bytes)
    fill(file, place.start, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=place.dtype).reshape(place.shape)


def legacy_head(path: Path, tied: bool, rows: int | None = None) -> torch.Tensor:
    """The head of a .bin from before PyTorch 1.6, which must be loaded whole, by weights-only unpickling."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile pickle can provoke
        raise ValueError(
            f"{path.name} is no plain state dict ({error!r:.200}): refused; use a safetensors revision"
        ) from error
    key = head_key(state, tied)
    if key is None:
        raise ValueError(f"{path.name} holds no head: expected one of {', '.join(HEADS)}, or a tied input embedding")
    return state[key][: kept_rows(state[key].shape, rows)].clone()


def header(place: Place) -> bytes:
    """What a safetensors file of just that tensor, as a head, begins with."""
    (code,) = [code for code, dtype in _SAFETENSORS_DTYPES.items() if dtype == place.dtype]
    text = json.dumps({HEADS[0]: {"dtype": code, "shape": place.shape, "data_offsets": [0, place.bytes]}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def kept_rows(shape: tuple[int, ...], rows: int | None) -> int:
    """How many rows of a head to keep. Raises ValueError unless it is a matrix that has so many."""
    if len(shape) != 2:
        raise ValueError(f"the head has shape {tuple(shape)}: expected a matrix (vocabulary, width)")
    if rows is not None and not 1 <= rows <= shape[0]:
        raise ValueError(f"rows = {rows}: expected 1 to {shape[0]}, the rows of the head")
    return shape[0] if rows is None else rows


def fill(file: BinaryIO, start: int, view: memoryview) -> None:
    """Read exactly so many bytes from there. Raises ValueError where the file ends too early."""
    done = 0
    file.seek(start)
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise ValueError(f"the file ends {len(view) - done} bytes before the end of the head: fetch it again")
        done += count


def _in_safetensors(file: BinaryIO, name: str, choose: Choose) -> Place:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= LARGEST_DIRECTORY:
        raise ValueError(f"{name} is not a safetensors file: its header claims {length} bytes; fetch it again")
    header = json.loads(file.read(length))
    entry = header[choose([key for key in header if key != "__metadata__"], name)]
    first, last = entry["data_offsets"]
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
        raise ValueError(f"the head in {name} is {entry['dtype']}: expected one of {', '.join(_SAFETENSORS_DTYPES)}")
    place = Place(_SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + first)
    if first < 0 or last - first != place.bytes or any(side < 0 for side in place.shape):
        raise ValueError(f"{name} is corrupt: its head's shape and its {last - first} bytes disagree; fetch it again")
    return place


def _in_zip(file: BinaryIO, name: str, choose: Choose) -> Place:
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        pickles = [record for record in records if record.count("/") == 1 and record.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{name} is not a PyTorch checkpoint: expected one data.pkl in it, found {len(pickles)}")
        directory, prefix = pickles[0], pickles[0].removesuffix("data.pkl")
        if _stored(records[directory], name).file_size > LARGEST_DIRECTORY:
            raise ValueError(f"the pickle in {name} is too large for a state dict: do not use this checkpoint")
        if prefix + "byteorder" in records and archive.read(_stored(records[prefix + "byteorder"], name)) != b"little":
            raise ValueError(f"{name} was written on a big-endian machine: expected little; convert it to safetensors")
        tensors = _unpickle(archive.read(directory), name)
        place = tensors[choose(tensors, name)]
        record = _stored(records[f"{prefix}data/{place.storage}"], name)
        if place.start < 0 or place.start + place.bytes > record.file_size:
            raise ValueError(f"{name} is corrupt: its head is longer than the storage it names; fetch it again")
        # The directory at the end of a zip does not say how long the record's own header is: that one is read.
        file.seek(record.header_offset)
        local = file.read(30)
        lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        return replace(place, start=record.header_offset + 30 + lengths + place.start)


def _stored(record: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    """PyTorch never compresses: what is compressed could unpack to anything."""
    if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
        raise ValueError(f"{name} is compressed, which PyTorch's files are not: do not use this checkpoint")
    return record


class _StateDict(pickle.Unpickler):
    """Reads state dicts as places of tensors; whatever else a pickle asks for is refused, never imported."""

    known = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: _place(*parts),
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    } | {("torch", f"{kind}Storage"): dtype for kind, dtype in _STORAGE_DTYPES.items()}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.known:
            raise ValueError(f"it asks for {module}.{name}")
        return self.known[module, name]

    def persistent_load(self, pid: tuple) -> tuple[torch.dtype, str]:
        _, dtype, key, _, _ = pid
        return dtype, key


def _place(storage: tuple[torch.dtype, str], offset: int, shape: tuple, stride: tuple, *_: object) -> Place:
    dtype, key = storage
    contiguous = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    # A tensor that is a view has no one place; only a head that is one is an error, raised when it is asked for.
    return Place(dtype, tuple(shape), offset * dtype.itemsize if tuple(stride) == contiguous else -1, key)


def _unpickle(data: bytes, name: str) -> dict[str, Place]:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if "PUT" in opcode.name and int(argument) > len(data):  # would reserve memory for that many objects
                raise ValueError("it numbers its objects beyond its length")
        tensors = _StateDict(io.BytesIO(data)).load()
        return {key: place for key, place in tensors.items() if isinstance(place, Place)}
    except Exception as error:  # whatever a hostile pickle can provoke
        raise ValueError(
            f"the pickle in {name} is no plain state dict ({error}): refused without running it; "
            "use a safetensors revision"
        ) from error
