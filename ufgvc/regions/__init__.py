"""Region detection and masks: trains and evaluates the detector of veins and contours, and makes masks of its boxes."""
