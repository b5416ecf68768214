"""Many trainings: the benchmark, the search, pretraining and calibration."""
