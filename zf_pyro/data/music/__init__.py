"""Polyphonic music as sequences of notes that sound together."""
