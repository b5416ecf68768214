"""What a data set is worth: photographs, confounders, labels, cultivars that look alike, and more leaves."""
