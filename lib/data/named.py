"""Which tensor of a checkpoint is a model's head: what the model's own class says, built without weights.

The class is made on the meta device from the configuration; its output embedding, what that is tied to, and the names
that files of old or of other makers give these, are those that transformers itself goes by when it loads the model.
"""

import contextlib
import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

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

    def converted(self, key: str, stored: torch.Tensor) -> torch.Tensor:
        """What loading makes of the tensor that was chosen: nearly always the tensor itself."""
        _, converters = self._conversions()
        name = self.names[0]
        for converter in converters:
            renamed, pattern = converter.rename_source_key(name)
            if pattern is not None and renamed == name:
                converter.add_tensor(name, key, pattern, stored)
                return converter.convert(name, model=self.model, config=self.model.config)[name]
        return stored

    def _conversions(self):
        found = get_model_conversion_mapping(self.model)
        kinds = WeightRenaming, WeightConverter
        return [[conversion for conversion in found if isinstance(conversion, kind)] for kind in kinds]


def head(settings: PreTrainedConfig) -> Head:
    """The head of the causal language model that a configuration describes.

    Raises ValueError where transformers can't make that model, or it has no head that is one matrix.
    """
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]
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
