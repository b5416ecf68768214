"""Many trainings side by side: the benchmark of all methods."""
