"""The demo's model and tasks: all of it made by this package, from seeds."""

from pathlib import Path

from seekr.builtin.tasks import TASKS as TASKS
from seekr.builtin.tasks import builtin_rows as builtin_rows


def builtin_model() -> Path:
    """The folder of the built-in model, for `from_pretrained`: a tiny Llama and its tokenizer."""
    return Path(__file__).parent / "model"
