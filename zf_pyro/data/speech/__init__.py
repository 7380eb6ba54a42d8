"""Speech: audio files, listings of corpora, and their preparation."""
