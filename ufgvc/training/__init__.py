"""Training one model: settings, data loader, training loop, checkpoints and the run."""
