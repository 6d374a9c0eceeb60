"""Bills of materials (CycloneDX)."""
