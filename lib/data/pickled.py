"""State dicts in .bin files, which are pickles: read by PyTorch's weights-only unpickler, which runs nothing.

What it refuses is refused, whether only the places of the tensors are wanted or the tensors themselves.
"""

import io
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch._weights_only_unpickler import Unpickler  # torch.load would read the head of every record of the zip

LARGEST = 100 << 20  # bytes; far above any state dict's pickle
NESTS = ("state_dict", "model_state_dict", "model", "module")  # under which trainers keep the tensors


def is_zip(file: BinaryIO) -> bool:
    """Whether a .bin is from PyTorch 1.6 or later; the file is left at its start."""
    beginning = file.read(4)
    file.seek(0)
    return beginning == b"PK\3\4"


def directory(file: BinaryIO, name: str) -> tuple[dict[str, torch.Tensor], dict[str, zipfile.ZipInfo]]:
    """The tensors of a .bin without their values, and the records of the zip that hold those."""
    archive = zipfile.ZipFile(file)
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            # PyTorch never compresses: what is compressed could unpack to anything.
            raise ValueError(f"{name} is compressed, which PyTorch's files are not: do not use this checkpoint")
    pickles = [record for record in archive.namelist() if record.count("/") == 1 and record.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{name} is not a PyTorch checkpoint: expected one data.pkl in it, found {len(pickles)}")
    if archive.getinfo(pickles[0]).file_size > LARGEST:
        raise ValueError(f"the pickle in {name} is too large for a state dict: do not use this checkpoint")
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "byteorder" in archive.namelist() and archive.read(prefix + "byteorder") != b"little":
        raise ValueError(f"{name} was written on a big-endian machine: expected little; convert it to safetensors")
    data = archive.read(pickles[0])
    try:
        tensors = _named(_Directory(io.BytesIO(data), encoding="utf-8").load())
    except Exception as error:  # whatever a hostile pickle can provoke
        raise _refusal(name, error) from error
    return tensors, {record.filename.removeprefix(f"{prefix}data/"): record for record in archive.infolist()}


def load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .bin by name; of a zip they stay on the disk until they are used. Raises as directory does."""
    with path.open("rb") as file:
        if mapped := is_zip(file):
            directory(file, path.name)  # refuses what PyTorch's own reader would unpack
    try:
        return _named(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    except Exception as error:  # whatever a hostile pickle can provoke
        raise _refusal(path.name, error) from error


class _Directory(Unpickler):
    """PyTorch's weights-only unpickler, so that nothing more is allowed here than there, on storages without bytes."""

    def persistent_load(self, pid: tuple) -> torch.storage.TypedStorage:
        _, kind, record, _, length = pid
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        storage = torch.UntypedStorage(length * dtype.itemsize, device="meta")
        storage.record = record
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _named(loaded: object) -> dict[str, torch.Tensor]:
    """The tensors of an unpickled file by name: its own, or those under the name that trainers give to weights."""
    while isinstance(loaded, dict):
        inner = [loaded[name] for name in NESTS if isinstance(loaded.get(name), dict)]
        if not inner:
            return {key: value for key, value in loaded.items() if isinstance(key, str) and torch.is_tensor(value)}
        loaded = inner[0]
    raise ValueError(f"it is a {type(loaded).__name__}, not a dictionary of tensors")


def _refusal(name: str, error: Exception) -> ValueError:
    refused = re.search(r"GLOBAL (\S+)", str(error))  # the rest of PyTorch's message advises to trust the file
    reason = f"it asks for {refused[1]}" if refused else str(error).partition("\n")[0] or repr(error)
    return ValueError(
        f"the pickle in {name} is no plain state dict ({reason}): refused without running it; "
        "use a safetensors revision, or save the tensors alone"
    )
