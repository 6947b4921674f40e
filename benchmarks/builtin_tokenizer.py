"""The tokenizer of the built-in model: bytes, and the built-in tasks' instruction words as one token each."""

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from seekr.builtin.tasks import TASKS

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def make_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer that gives back every text unchanged and opens each with `<bos>`.

    Args:
        max_length: tokens that the model takes, `<bos>` included.
    """
    pieces = [PAD, BOS, EOS, *sorted(ByteLevel.alphabet()), *TASKS]
    # Without merges, a run of letters is one token where the vocabulary has it whole, and bytes elsewhere.
    model = BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], ignore_merges=True)
    tokenizer = Tokenizer(model)
    words = Split(Regex(r"[a-z]+"), behavior="isolated")
    tokenizer.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, pieces.index(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
