"""MLflow: recording runs and the model registry. A run goes on while MLflow's server is unreachable."""
