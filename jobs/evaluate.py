"""`ufgvc evaluate`, also for `ray job submit --working-dir . -- python -m jobs.evaluate`."""

from jobs import start

if __name__ == "__main__":
    start("evaluate")
