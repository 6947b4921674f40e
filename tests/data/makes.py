"""Tokenizers of every make, built on the spot; and which characters each of their tokens stands for, told without them.

`Make.ranges` follows a text through a make by its definition (Unicode's own tables, the vocabulary) and lays the tokens
over what comes out of that: nothing of it is read from a tokenizer's offsets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from toy_tokenizers import CORPUS, SPECIAL, TOKENIZERS, wrap
from transformers import PreTrainedTokenizerFast

Range = tuple[int, int]
Unit = tuple[str, int, int]
"""A sign as the model sees it, and the characters [start, end) of the text that it comes from; one that is put in front
of another is of the same."""

TEXTS = [*CORPUS, "Où est le père? Straße 7½ fin, naïve façade: 한국 語", "a.b,c;d!e?f(g)h 0228 2024-01-05"] * 2
BYTES = {  # GPT-2's sign for each byte
    byte: chr(byte) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174 else None for byte in range(256)
}
_hidden = [byte for byte, sign in BYTES.items() if sign is None]
BYTES |= {byte: chr(256 + place) for place, byte in enumerate(_hidden)}


@dataclass(frozen=True)
class Make:
    """How a make of tokenizer reads a text that holds no special token.

    Attributes:
        build: the tokenizer.
        units: what the text is to the model, by definition.
        words: the units in the pieces that no token crosses; None = one piece.
        unknown: what stands for `<unk>`: the rest of a word, one unit, or as many in a row as are unknown.
        first: before which parts of a text, special tokens parting it, the make puts a "▁".
        drops: whether units that the vocabulary does not hold vanish.
    """

    build: Callable[[], PreTrainedTokenizerFast]
    units: Callable[[str], list[Unit]]
    words: Callable[[list[Unit]], list[list[Unit]]] = lambda units: [units]
    unknown: Literal["word", "one", "run"] = "one"
    first: Literal["", "once", "each", "prepended"] = ""
    drops: bool = False

    def ranges(self, text: str, pieces: Sequence[str], known: set[str]) -> list[list[Range]]:
        """For each of the pieces of a text (as `convert_ids_to_tokens` names them) the characters it stands for."""
        words: list[list[Unit]] = []
        shift = 0
        for part in re.split(f"({'|'.join(map(re.escape, SPECIAL))})", text):
            if part in SPECIAL:
                words.append([(part, shift, shift + len(part))])
            elif part:
                units = [(sign, start + shift, end + shift) for sign, start, end in self.units(part)]
                units = [("▁", *units[0][1:])] * self.puts_first(units, shift) + units if units else []
                words += self.words([unit for unit in units if not self.drops or unit[0] in known])
            shift += len(part)
        return list(self._laid_out([word for word in words if word], pieces, known))

    def puts_first(self, units: list[Unit], shift: int) -> bool:
        """Whether this make puts a "▁" before a part of the text that begins at character `shift`."""
        if self.first == "prepended":
            return True
        return (self.first == "each" or (self.first == "once" and shift == 0)) and units[0][0] != "▁"

    def _laid_out(self, words: list[list[Unit]], pieces: Sequence[str], known: set[str]) -> Iterator[list[Range]]:
        word: list[Unit] = []
        pending: list[int] = []  # bytes still to come of the last unit
        last: Range = (0, 0)
        for piece in pieces:
            if not word and not pending:
                word = words.pop(0)
            if piece.startswith("<0x"):
                if not pending:
                    pending, last, word = list(word[0][0].encode()), word[0][1:], word[1:]
                assert int(piece[1:-1], 16) == pending.pop(0)
                yield [last]
                continue
            bare = piece.removeprefix("##") if len(piece) > 2 else piece
            bare = bare.removesuffix("</w>") or bare
            count = 1 if piece in SPECIAL else len(bare)
            if piece == "<unk>" and word[0][0] != piece and self.unknown != "one":
                count = len(word)
                if self.unknown == "run":
                    count = next((at for at in range(1, count) if word[at][0] in known), count)
            taken, word = word[:count], word[count:]
            assert piece == "<unk>" or "".join(sign for sign, _, _ in taken) in (bare, piece), (piece, taken)
            yield [(start, end) for _, start, end in taken]
        assert not word + words, "units are left over"


def plain(text: str) -> list[Unit]:
    return [(char, place, place + 1) for place, char in enumerate(text)]


def normal(form: Literal["NFC", "NFKC"]) -> Callable[[str], list[Unit]]:
    """Units of a Unicode normal form: every stretch that is normalized by itself, and what comes out of it."""

    def units(text: str) -> list[Unit]:
        def of(part: str) -> str:
            return unicodedata.normalize(form, part)

        cuts = [at for at in range(len(text)) if of(text[:at]) + of(text[at:]) == of(text)]
        spans = zip(cuts, [*cuts[1:], len(text)], strict=True)
        return [(char, start, end) for start, end in spans for char in of(text[start:end])]

    return units


def of_bytes(units: Callable[[str], list[Unit]]) -> Callable[[str], list[Unit]]:
    return lambda text: [(str(BYTES[byte]), start, end) for char, start, end in units(text) for byte in char.encode()]


def metaspace(units: Callable[[str], list[Unit]]) -> Callable[[str], list[Unit]]:
    return lambda text: [("▁" if char == " " else char, start, end) for char, start, end in units(text)]


def bert(text: str) -> list[Unit]:
    """BERT's: control characters go, white space is a space, lower case without accents."""
    units = []
    for char, start, end in plain(text):
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            units.append((" ", start, end))
        elif char not in "\0\ufffd" and category not in ("Cc", "Cf", "Cn", "Co"):
            bare = [c for c in unicodedata.normalize("NFD", char) if unicodedata.category(c) != "Mn"]
            units += [(low, start, end) for c in bare for low in c.lower()]
    return units


def split_at_spaces(units: list[Unit]) -> list[list[Unit]]:
    """Words, white space gone."""
    words: list[list[Unit]] = [[]]
    for unit in units:
        if unit[0].isspace():
            words.append([])
        else:
            words[-1].append(unit)
    return words


def split_at_signs(units: list[Unit]) -> list[list[Unit]]:
    """Words and single signs of punctuation, white space gone, as BERT splits."""
    words: list[list[Unit]] = [[]]
    for unit in units:
        if unit[0].isspace():
            words.append([])
        elif unicodedata.category(unit[0]).startswith("P") or unit[0] in "$+<=>^`|~":
            words += [[unit], []]
        else:
            words[-1].append(unit)
    return words


def before_spaces(units: list[Unit]) -> list[list[Unit]]:
    """Pieces that begin with "▁"."""
    words: list[list[Unit]] = [[]]
    for unit in units:
        if unit[0] == "▁":
            words.append([])
        words[-1].append(unit)
    return words


def _trained(tokenizer: Tokenizer, trainer: object, **options: bool) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(TEXTS, trainer)
    return wrap(tokenizer, **options)


def unigram(normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """Unigram with Metaspace, as T5's and XLNet's."""
    tokenizer = Tokenizer(models.Unigram())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    return _trained(tokenizer, trainer)


def legacy_llama() -> PreTrainedTokenizerFast:
    """BPE over the whole text, spaces made "▁" by the normalizer, unknown characters as bytes, as Llama 2's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    return _trained(
        tokenizer, trainers.BpeTrainer(vocab_size=460, special_tokens=[*SPECIAL, *fallback], show_progress=False)
    )


def no_prefix_space() -> PreTrainedTokenizerFast:
    """BPE with Metaspace that puts nothing in front, each unknown character one `<unk>`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False))


def word_piece() -> PreTrainedTokenizerFast:
    """WordPiece of lower case, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _trained(tokenizer, trainers.WordPieceTrainer(vocab_size=220, special_tokens=SPECIAL, show_progress=False))


def characters() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(set("".join(TEXTS)))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return wrap(tokenizer)


def byte_level_nfc() -> PreTrainedTokenizerFast:
    """Byte-level BPE of composed text, as Qwen's."""
    tokenizer = TOKENIZERS["modern_pattern"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def ends_of_words() -> PreTrainedTokenizerFast:
    """BPE of words whose last piece says so, as GPT's first."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=220, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    return _trained(tokenizer, trainer)


def _letters(*merges: str) -> models.BPE:
    """Small letters alone, without anything for what is not known."""
    pieces = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyzTO:.▁", *merges]
    pairs = [(merge[:-1], merge[-1]) for merge in merges]
    return models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs)


def drops_letters() -> PreTrainedTokenizerFast:
    """BPE over the whole text that makes nothing of letters it does not know."""
    tokenizer = Tokenizer(_letters("To", "Tom", "th", "the", "ab"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    return wrap(tokenizer)


def drops_letters_in_words() -> PreTrainedTokenizerFast:
    """The same with words split first: a dropped letter shifts the rest of its word, and letters around it join."""
    tokenizer = Tokenizer(_letters("To", "Tom", "th", "the", "ab"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    return wrap(tokenizer)


def drops_bytes() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose vocabulary lacks bytes: of a letter some may be there and others not."""
    signs = [str(BYTES[byte]) for byte in (*range(97, 123), 32, 0xC3, 0xA9, 0xF0, 0x80, 0x98)]
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *signs, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return wrap(tokenizer)


MAKES = {
    "byte_level": Make(TOKENIZERS["byte_level"], of_bytes(plain)),
    "byte_level_trimmed": Make(TOKENIZERS["byte_level_trimmed"], of_bytes(plain)),
    "byte_level_adds_end": Make(TOKENIZERS["adds_end"], of_bytes(plain)),
    "byte_level_nfc": Make(byte_level_nfc, of_bytes(normal("NFC"))),
    "sentence_piece_bpe": Make(TOKENIZERS["sentence_piece"], metaspace(plain), before_spaces, first="once"),
    "legacy_llama": Make(legacy_llama, metaspace(plain), first="prepended"),
    "no_prefix_space": Make(no_prefix_space, metaspace(plain), before_spaces),
    "unigram": Make(unigram, metaspace(plain), before_spaces, unknown="run", first="each"),
    "unigram_nfkc": Make(
        lambda: unigram(normalizers.NFKC()), metaspace(normal("NFKC")), before_spaces, unknown="run", first="each"
    ),
    "word_piece": Make(word_piece, bert, split_at_signs, unknown="word"),
    "words": Make(TOKENIZERS["words"], plain, split_at_spaces, unknown="word"),
    "characters": Make(characters, plain),
    "ends_of_words": Make(ends_of_words, plain, split_at_spaces),
    "drops_letters": Make(drops_letters, metaspace(plain), first="once", drops=True),
    "drops_letters_in_words": Make(drops_letters_in_words, metaspace(plain), before_spaces, drops=True),
    "drops_bytes": Make(drops_bytes, of_bytes(plain), drops=True),
}
