"""Tests, speeds and trainings on a GPU host without a network: `pack` collects what travels there, `run` runs there.

Only the standard library is imported here: on that host the packages are part of what travels.
"""
