"""One thin file a job."""
