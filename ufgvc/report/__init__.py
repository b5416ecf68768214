"""From a model to numbers, figures and one page that a person can trust."""
