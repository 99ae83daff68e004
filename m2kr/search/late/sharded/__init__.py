"""Exact search in shards: ranges of a store, devices, and their merging."""
