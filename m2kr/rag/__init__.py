"""Retrieval-augmented answering: readers answer from retrieved passages, scorers judge the answers."""
