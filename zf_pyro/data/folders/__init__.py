"""Prepared folders: their record, and how they are written."""
