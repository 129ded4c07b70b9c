"""A store of labels → the page where people label, and its command line."""

from rlhf_jax.labeling.overview import overview
from rlhf_jax.labeling.submission import given_task, submission

__all__ = ["given_task", "overview", "submission"]
