"""What a pool will take in bytes and seconds."""
