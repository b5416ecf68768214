"""The Ray session that a step runs in, and what runs inside it."""
