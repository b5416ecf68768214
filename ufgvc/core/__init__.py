"""What every part stands on: configuration, storage, errors. No Ray, no MLflow, no torchvision."""
