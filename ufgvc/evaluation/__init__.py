"""From a model to numbers: scores, metrics, statistics, promotion."""
