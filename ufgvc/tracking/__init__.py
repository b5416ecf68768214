"""Runs and the model registry on MLflow; training goes on when its server is away."""
