"""Training: optimizer and steps (torch only), the worker's loop, the trainer, checkpoints."""
