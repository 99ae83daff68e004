"""Builders: one module per source, found by name; modules that start with ``_`` are shared helpers."""
