"""Trained models: scoring, calibration, the files of a saved model, ONNX export and the MLflow flavour."""
