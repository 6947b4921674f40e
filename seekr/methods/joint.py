"""Training on all tasks at once: the upper bound, which needs all data at the same time."""

from seekr.methods.base import Method


class Joint(Method):
    """Trains one stage on the rows of all tasks together."""

    name = "joint"
    joint = True
