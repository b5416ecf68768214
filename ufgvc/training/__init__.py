"""Training one model: optimizer and steps, the worker, the run, checkpoints."""
