"""Plain fine-tuning on one task after another: the lower bound, which forgets."""

from seekr.methods.base import Method


class Sequential(Method):
    """Fine-tunes on each task as it comes and keeps nothing."""

    name = "sequential"
