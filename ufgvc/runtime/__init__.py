"""Ray: the session, its resources, and Ray Data tasks."""
