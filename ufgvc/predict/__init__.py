"""Cultivars for a folder or bucket of new photographs."""
