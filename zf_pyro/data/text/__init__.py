"""Text: vocabularies, reviews and docstrings."""
