"""A served model: limits on what is sent, replicas that answer, and the page to drop a photograph on."""
