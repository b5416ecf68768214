"""`ufgvc ingest`, also for `ray job submit --working-dir . -- python -m jobs.ingest`."""

from jobs import start

if __name__ == "__main__":
    start("ingest")
