"""Filling mirrors."""
