"""The version of m2kr; no module under m2kr/ imports the package itself."""

__version__ = "0.1.0"
