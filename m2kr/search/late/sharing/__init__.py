"""Token stores and indexes as one file, and on the Hugging Face hub."""
