"""Text as sequences of words: reviews, docstrings and vocabularies."""
