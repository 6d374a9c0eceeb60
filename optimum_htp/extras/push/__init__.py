"""Pushing files to a Hub, in one commit, with a model card."""
