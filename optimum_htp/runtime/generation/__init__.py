"""Text generation as in `generate` of transformers: settings, decoders with caches, and searches."""
