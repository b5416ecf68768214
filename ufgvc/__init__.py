"""Tell plant cultivars apart from a photograph of one leaf (mask-guided ultra-fine-grained visual categorization)."""

__version__ = "0.1.0"
