"""Data sets on storage: ingesting, reading, splitting, caching, streaming and augmenting images and masks."""
