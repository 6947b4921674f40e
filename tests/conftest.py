"""What every test may use: the shared material beside the checkout, where it is there."""

import gc
import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Read when triton is imported, by whomever: its kernels then run without a GPU.
    os.environ["TRITON_INTERPRET"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared"


REQUIRED = "SEEKR_REQUIRE_SHARED"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the fixture `shared` carry the marker `shared`; slow ones have an hour."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the released code's numbers, real data and tiny real models, which are not the project's.

    A test that needs it is skipped without it, and fails where SEEKR_REQUIRE_SHARED says that it has to be there.
    """
    if not SHARED.is_dir():
        missing = f"needs the shared material in {SHARED}, which is not there"
        if os.environ.get(REQUIRED, "0") != "0":
            pytest.fail(f"{missing}, and {REQUIRED} is set")
        pytest.skip(missing)
    return SHARED


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_is_no_garbage() -> None:
    """Training collects garbage twice a task, which takes its time among all that modules of tests have imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and four heads with a byte tokenizer, as a folder for `from_pretrained`."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    pieces = ["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet())]
    backend = Tokenizer(BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
