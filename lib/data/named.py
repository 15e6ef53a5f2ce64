"""Which tensor of a checkpoint is a model's head: what the model's own class says, built without weights.

The class is made on the meta device from the configuration; its output embedding, what that is tied to, and the names
that files of old or of other makers give these, are those that transformers itself goes by when it loads the model.
"""

import contextlib
import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lib.data import tensors


@dataclass(frozen=True)
class Head:
    """The head of a model that has no weights yet."""

    model: PreTrainedModel  # on the meta device
    names: tuple[str, ...]  # of the head's tensor in the model: its own, then those of what it is tied to

    def choose(self, keys: Iterable[str], where: str) -> str:
        """The key, among those of a checkpoint, of the tensor that becomes the head when the model is loaded.

        Raises ValueError where none does, or several would; where: the file, for the message.
        """
        plain = {key: tensors.unwrapped(key) for key in keys}
        renamings, converters = self._conversions()
        shapes = self.model.state_dict()
        for prefix in tensors.wrappers(plain.values()):
            becomes = {}
            for key, name in plain.items():
                name = name.removeprefix(prefix)
                loaded, _ = rename_source_key(name, renamings, converters, self.model.base_model_prefix, shapes)
                becomes.setdefault(name if loaded not in shapes and name in shapes else loaded, []).append(key)
            for name in self.names:
                if len(found := becomes.get(name, [])) > 1:
                    raise ValueError(
                        f"{' and '.join(sorted(found))} could each be the head: keep the model's tensors alone"
                    )
                if found:
                    return found[0]
        expected = " or, as they are tied, ".join(self.names)
        raise ValueError(f"{where} holds no head: expected {expected}, as the {type(self.model).__name__} has it")

    def read(
        self,
        names: Collection[str],
        open_file: Callable[[str], BinaryIO],
        whole: Callable[[str], Path],
        rows: int | None = None,
    ) -> torch.Tensor:
        """The head (V, d) of a checkpoint, or its first rows, as loading makes it; float32 where it has scales.

        names: the files there are; open_file(name) opens one, whole(name) gives one that must be read whole.
        Raises ValueError as lib.data.tensors does.
        """
        name, file, place = tensors.find_head(names, open_file, self.choose)
        if file is None:
            return tensors.legacy_head(whole(name), self.choose, rows)
        with file:
            if self.plain(place):
                return tensors.read(file, place, rows)
            found = tensors.read(file, place)
        if place.scaled:
            found = tensors.scaled(found, self._scales(names, open_file, name, place), self._block())
        found = self._converted(place.key, found)
        return found[: tensors.kept_rows(found.shape, rows)]

    def plain(self, place: tensors.Place) -> bool:
        """Whether loading takes the head as it is stored, which it does nearly always."""
        return not place.scaled and self._converter() is None

    def _scales(self, names, open_file, where, place):
        wanted = [place.key + ending for ending in tensors.SCALES]

        def choose(keys, _):
            if found := [key for key in wanted if key in keys]:
                return found[0]
            raise ValueError(
                f"the head in {where} is stored as {place.dtype} without scales ({' or '.join(wanted)}): expected one "
                "of float64, float32, float16, bfloat16; save the model dequantised"
            )

        _, file, found = tensors.find_head(names, open_file, choose)
        with file:
            return tensors.read_whole(file, found)

    def _block(self):
        settings = getattr(self.model.config, "quantization_config", None) or {}
        return (settings if isinstance(settings, dict) else settings.to_dict()).get("weight_block_size")

    def _converted(self, key, stored):
        if (converter := self._converter()) is None:
            return stored
        _, pattern = converter.rename_source_key(self.names[0])
        converter.add_tensor(self.names[0], key, pattern, stored)
        return converter.convert(self.names[0], model=self.model, config=self.model.config)[self.names[0]]

    def _converter(self):
        """What transformers does to the head when it loads it, if anything."""
        _, converters = self._conversions()
        return next((one for one in converters if one.rename_source_key(self.names[0])[1] is not None), None)

    def _conversions(self):
        found = get_model_conversion_mapping(self.model)
        kinds = WeightRenaming, WeightConverter
        return [[conversion for conversion in found if isinstance(conversion, kind)] for kind in kinds]


def causal(settings: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class of causal language models that a configuration is for; also that of a part of one, as of its text."""
    if type(settings) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]
    package = type(settings).__module__.split(".")[-2]
    kinds = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if model_type_to_module_name(kind) == package]
    found = [MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]] for kind in kinds]
    return next((one for one in found if one.config_class is type(settings)), None)


def head(settings: PreTrainedConfig) -> Head:
    """The head of the causal language model that a configuration describes.

    Raises ValueError where transformers can't make that model, or it has no head that is one matrix.
    """
    kind = causal(settings)
    try:
        with quiet(), contextlib.ExitStack() as empty:
            for context in kind.get_init_context(torch.float32, False, False, None):
                empty.enter_context(context)
            model = kind(copy.deepcopy(settings))
        model.tie_weights()
    except Exception as error:  # of classes without number, in a model that its configuration makes impossible
        raise ValueError(
            f"transformers can't make the {kind.__name__} of config.json ({line(error)}): correct it"
        ) from (error)
    weight = getattr(model.get_output_embeddings(), "weight", None)
    if getattr(weight, "ndim", 0) != 2:
        raise ValueError(f"{kind.__name__} has no head that is a matrix: expected a causal language model")
    own = [f"{name}.weight" for name, part in model.named_modules() if part is model.get_output_embeddings()]
    shared = [name for name, one in model.named_parameters(remove_duplicate=False) if one is weight]
    return Head(model, tuple(dict.fromkeys([*own, *shared])))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block transformers does not log what it would warn of."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def line(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
