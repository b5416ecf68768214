"""From a few drawn boxes to a mask for every leaf: the detector, its training and measuring, and the masks."""
