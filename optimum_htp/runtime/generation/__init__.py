"""Generating text: settings, decoders with their caches, and the searches, as `generate` of transformers runs them."""
