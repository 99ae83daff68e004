"""``m2kr import``."""

EXAMPLES = ""


def command() -> None:
    """X"""
