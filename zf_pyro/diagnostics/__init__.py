"""Is the guide right, do the latents matter, which model is better: answers in ArviZ and out of it."""

from .convert import GROUPS, to_arviz

__all__ = ["GROUPS", "to_arviz"]
