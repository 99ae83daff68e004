"""Scorers of answers, one rule set a file."""
