"""`ufgvc pipeline`, also for `ray job submit --working-dir . -- python -m jobs.pipeline`."""

from jobs import start

if __name__ == "__main__":
    start("pipeline")
