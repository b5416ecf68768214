"""Layers and functions that methods share."""
