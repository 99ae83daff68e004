"""Training of readers: adapters that learn to answer from passages that a retriever found."""
