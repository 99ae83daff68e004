"""The cheap passes of exact search: what they are, why they may discard, and how they go over a block."""
