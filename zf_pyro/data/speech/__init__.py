"""Speech: audio files, the corpora's listings, and their preparation."""
