"""Compressed indexes: codes, files, building, and how a search narrows a pool."""
