"""What the program did on a known day: a small data set, the numbers of trainings on it, and a saved model."""
