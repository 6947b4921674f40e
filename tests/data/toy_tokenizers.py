"""Small tokenizers of the kinds that models use, made on the spot, and chat templates."""

from collections.abc import Callable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Translate the sentence.\nInput: the cat sat on the mat.\nOutput: le chat",
    "Answer the question.\n\nQuestion: how many legs? Answer: 42 legs, or 7.",
    "Is it true or false?\nOutput:\n\ntrue false joy anger Output: joy",
] * 4
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]

# The pattern of Llama 3 and Qwen: one sign may stand in the same piece as the letters behind it, digits stand alone.
MODERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def wrap(tokenizer: Tokenizer, *, begin: bool = True, end: bool = False) -> PreTrainedTokenizerFast:
    single = ("<s> " if begin else "") + "$A" + (" </s>" if end else "")
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    template = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer.post_processor = template
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[3:],
        clean_up_tokenization_spaces=False,
    )


def byte_level(
    *, begin: bool = True, end: bool = False, pattern: str | None = None, trim_offsets: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's (or with another `pattern`), with merges of its own."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    pieces = [pre_tokenizers.Split(Regex(pattern), behavior="isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*pieces, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, *[":joy (joy \n\n\n" * 3] * 4], trainer)
    wrapped = wrap(tokenizer, begin=begin, end=end)
    if trim_offsets:
        both = [processors.ByteLevel(trim_offsets=True), tokenizer.post_processor]
        wrapped.backend_tokenizer.post_processor = processors.Sequence(both)
    return wrapped


def sentence_piece() -> PreTrainedTokenizerFast:
    """BPE over text whose spaces became "▁", as Llama 2's: a word and the space before it are one token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=[*SPECIAL, *fallback], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrap(tokenizer)


def words() -> PreTrainedTokenizerFast:
    """One token a word, white space dropped."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(" ".join(CORPUS).split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap(tokenizer)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "byte_level_no_begin": lambda: byte_level(begin=False),
    "byte_level_trimmed": lambda: byte_level(trim_offsets=True),
    "modern_pattern": lambda: byte_level(pattern=MODERN),
    "adds_end": lambda: byte_level(end=True),
    "sentence_piece": sentence_piece,
    "words": words,
}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>' + messages[0]['content'] + '<</SYS>>' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Strips what an assistant thought, except in the last turn, as templates of reasoning models do.
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
