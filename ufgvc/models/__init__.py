"""A trained model on storage: its format, its calibration, its exports."""
