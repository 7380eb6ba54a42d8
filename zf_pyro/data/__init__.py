"""Data sets of sequences, as padded tensors with their lengths."""
