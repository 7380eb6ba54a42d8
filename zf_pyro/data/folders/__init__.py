"""Prepared folders: records, writers, splits and downloads."""
