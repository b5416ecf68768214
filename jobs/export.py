"""`ufgvc export`, also for `ray job submit --working-dir . -- python -m jobs.export`."""

from jobs import start

if __name__ == "__main__":
    start("export")
