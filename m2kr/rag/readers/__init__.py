"""The shipped readers, one a file."""
