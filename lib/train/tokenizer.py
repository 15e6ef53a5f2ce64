"""A byte-level BPE vocabulary learnt from the text that the models will read."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `vocabulary` entries, built as Pythia's is; entry 0 ends a document.

    Every text is encoded without unknown tokens and decoded to itself.
    Raises ValueError where the vocabulary can't hold the bytes, or the text yields too few merges.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary <= len(alphabet):
        raise ValueError(f"a vocabulary of {vocabulary} is too small: expected more than {len(alphabet)}, one per byte")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        raise ValueError(
            f"the text yields {tokenizer.get_vocab_size()} entries: expected {vocabulary}; "
            "give more text or ask for a smaller vocabulary"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END)
