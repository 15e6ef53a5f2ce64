"""One tensor out of a checkpoint file, reading only its place in the file and its own bytes.

A file is anything binary that can be read and sought: a local file, or one on a server (lib.data.ranges).
Checkpoints are untrusted: of a pickle, only what PyTorch's weights-only unpickler allows is read (lib.data.pickled).
"""

import json
import math
import os
import zipfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lib.data import pickled

KEPT = "embed_out.weight"  # the name of a head that is kept alone
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
WRAPPERS = ("_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts of keys
POINTER = b"version https://git-lfs"
LARGEST_HEADER = 100 << 20  # bytes; the limit of the safetensors format

Choose = Callable[[Iterable[str], str], str]  # (keys, name of the file) -> key of the head

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SCALED = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # are numbers with their scales only
SCALES = ("_scale_inv", "_scale")  # after the name of what they scale; both multiply


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # first byte, in the file
    key: str = ""  # its name there

    @property
    def scaled(self) -> bool:
        """Whether its numbers mean nothing without scales."""
        return self.dtype in _SCALED.values()

    @property
    def bytes(self) -> int:
        """Length in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def find_head(
    names: Collection[str], open_file: Callable[[str], BinaryIO], choose: Choose
) -> tuple[str, BinaryIO | None, Place | None]:
    """The file of a checkpoint that holds its head, opened, and the head's place in it.

    names: the files there are; open_file(name) opens one; choose: which tensor is the head (lib.data.named).
    A .bin from before PyTorch 1.6 is no zip and has no places: then file and place are None.
    Raises ValueError where no file holds a head, or one is not what its name says.
    """
    name = weights_name(names)
    try:
        if name.endswith(".json"):
            with open_whole(name, names, open_file) as index:
                files = weight_map(index.read())
            name = files[choose(files, name)]
        file = open_whole(name, names, open_file)
        if name.endswith(".safetensors"):
            return name, file, _in_safetensors(file, name, choose)
        if not pickled.is_zip(file):
            file.close()
            return name, None, None
        return name, file, _in_zip(file, name, choose)
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{name} is corrupt ({error!r}): expected a checkpoint; fetch it again") from error


def weights_name(names: Collection[str]) -> str:
    """The file, or the index of the files, that holds the weights; transformers chooses in the same order."""
    for name in WEIGHTS:
        if name in names:
            return name
    raise ValueError(f"there are no weights: expected one of {', '.join(WEIGHTS)}")


def check_present(name: str, names: Collection[str]) -> None:
    """Raise ValueError where a file that is wanted, as a shard that an index names, is not there."""
    if name not in names:
        raise ValueError(f"{name} is absent though the index of the shards names it: finish the download")


def open_whole(name: str, names: Collection[str], open_file: Callable[[str], BinaryIO]) -> BinaryIO:
    """A file, opened. Raises ValueError where it is absent, or where only Git's pointer to it is there."""
    check_present(name, names)
    file = open_file(name)
    beginning = file.read(len(POINTER))
    file.seek(0)
    if beginning == POINTER:
        file.close()
        raise ValueError(
            f"{name} is a Git LFS pointer, not the file it stands for: run `git lfs pull`, or fetch it again"
        )
    return file


def unwrapped(key: str) -> str:
    """A key without what compiling, sharding or checkpointing a module put into it."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def wrappers(keys: Iterable[str]) -> list[str]:
    """What may stand before the names of all tensors: nothing, "module.", "module.model." and so on."""
    parts = os.path.commonprefix([*keys]).split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]


def shards(names: Collection[str], read_whole: Callable[[str], bytes]) -> list[str]:
    """The files that hold the weights of a checkpoint; read_whole(name) reads the index of them, where there is one."""
    name = weights_name(names)
    return sorted(set(weight_map(read_whole(name)).values())) if name.endswith(".json") else [name]


def weight_map(index: bytes) -> dict[str, str]:
    """Tensor -> file of a sharded checkpoint, from its index. Raises ValueError where a file is not a plain name."""
    try:
        files = json.loads(index)["weight_map"]
        paths = [(name, PurePosixPath(name)) for name in files.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the index of the shards is corrupt ({error!r}): fetch it again") from error
    for name, path in paths:
        if path.name != name or path.suffix not in (".safetensors", ".bin") or set(name) & set("\\:"):
            raise ValueError(
                f"the index of the shards points at {name!r}: expected the name of a file beside it; "
                "do not use this checkpoint"
            )
    return files


def read(file: BinaryIO, place: Place, rows: int | None = None) -> torch.Tensor:
    """The matrix at that place, (V, d) in its stored dtype, or its first rows only.

    Raises ValueError where there are fewer rows, or the file ends too early.
    """
    return read_whole(file, replace(place, shape=(kept_rows(place.shape, rows), *place.shape[1:])))


def read_whole(file: BinaryIO, place: Place) -> torch.Tensor:
    """The tensor of any shape at that place. Raises ValueError where the file ends too early."""
    buffer = bytearray(place.bytes)
    fill(file, place.start, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=place.dtype).reshape(place.shape)


def scaled(weight: torch.Tensor, scales: torch.Tensor, block: tuple[int, int] | None = None) -> torch.Tensor:
    """The matrix (V, d), float32, that is stored as float8 with one scale, one for each row, or one for each block.

    block: rows and columns that share a scale; where not given, as many as fit. Raises ValueError for other scales.
    """
    if scales.numel() == 1:
        return weight.float() * scales.float()
    scales = scales.float().reshape(len(scales), -1)
    rows, columns = block or [-(-side // count) for side, count in zip(weight.shape, scales.shape, strict=True)]
    if (-(-weight.shape[0] // rows), -(-weight.shape[1] // columns)) != scales.shape:
        raise ValueError(
            f"the head has shape {tuple(weight.shape)} and scales {tuple(scales.shape)}: expected one for each block "
            f"of {rows} by {columns}; save the model dequantised"
        )
    scales = scales.repeat_interleave(rows, 0)[: weight.shape[0]].repeat_interleave(columns, 1)
    return weight.float() * scales[:, : weight.shape[1]]


def read_file(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, by name; of most files they stay on the disk until they are used.

    Raises ValueError where the file is not what its name says, or holds more than tensors.
    """
    try:
        return load_file(path) if path.suffix == ".safetensors" else pickled.load(path)
    except (SafetensorError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is corrupt ({error}): expected a checkpoint; fetch it again") from error


def legacy_head(path: Path, choose: Choose, rows: int | None = None) -> torch.Tensor:
    """The head of a .bin from before PyTorch 1.6, which must be read whole."""
    state = read_file(path)
    head = state[choose(state, path.name)]
    _readable(head.dtype, path.name)
    return head[: kept_rows(head.shape, rows)].clone()


def header(place: Place) -> bytes:
    """What a safetensors file of just that tensor, as a head, begins with."""
    (code,) = [code for code, dtype in _DTYPES.items() if dtype == place.dtype]
    text = json.dumps({KEPT: {"dtype": code, "shape": place.shape, "data_offsets": [0, place.bytes]}}).encode()
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
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= LARGEST_HEADER:
        raise ValueError(f"{name} is not a safetensors file: its header claims {length} bytes; fetch it again")
    header = json.loads(file.read(length))
    key = choose([key for key in header if key != "__metadata__"], name)
    entry = header[key]
    first, last = entry["data_offsets"]
    dtype = _readable((_DTYPES | _SCALED).get(entry["dtype"], entry["dtype"]), name)
    place = Place(dtype, tuple(entry["shape"]), 8 + length + first, key)
    if first < 0 or last - first != place.bytes or any(side < 0 for side in place.shape):
        raise ValueError(f"{name} is corrupt: its head's shape and its {last - first} bytes disagree; fetch it again")
    return place


def _in_zip(file: BinaryIO, name: str, choose: Choose) -> Place:
    tensors, records = pickled.directory(file, name)
    key = choose(tensors, name)
    head = tensors[key]
    if not head.is_contiguous():
        raise ValueError(f"the head in {name} is stored transposed or with gaps: save it again as .contiguous()")
    record = records[head.untyped_storage().record]
    start = head.storage_offset() * head.dtype.itemsize
    place = Place(_readable(head.dtype, name), tuple(head.shape), start, key)
    if start + place.bytes > record.file_size:
        raise ValueError(f"{name} is corrupt: its head is longer than the storage it names; fetch it again")
    # The directory at the end of a zip does not say how long the record's own header is: that one is read.
    file.seek(record.header_offset)
    local = file.read(30)
    lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return replace(place, start=record.header_offset + 30 + lengths + start)


def _readable(dtype: torch.dtype | str, name: str) -> torch.dtype:
    if dtype not in (*_DTYPES.values(), *_SCALED.values()):
        known = ", ".join(str(known).removeprefix("torch.") for known in _DTYPES.values())
        raise ValueError(
            f"the head in {name} is stored as {dtype}: expected one of {known}; convert it, or use another revision"
        )
    return dtype
