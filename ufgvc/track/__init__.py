"""Runs, metrics and models on MLflow. The only part that imports it, and training goes on when its server is away."""
