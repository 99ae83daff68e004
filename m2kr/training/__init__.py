"""Training PreFLMR: recipes of its four stages, streamed mixtures of built sources, one readable loop."""
