"""Search in shards: ranges of a store, shards of an index, devices, and their merging."""
