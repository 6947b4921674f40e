"""The demo's model and tasks: all of it made by this package, from seeds."""

from pathlib import Path

from seekr.builtin.tasks import TASKS, builtin_rows

__all__ = ["TASKS", "builtin_model", "builtin_rows"]


def builtin_model() -> Path:
    """The folder of the built-in model, for `from_pretrained`: a tiny Llama and its tokenizer."""
    return Path(__file__).parent / "model"
