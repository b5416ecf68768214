"""`ufgvc suggest`, also for `ray job submit --working-dir . -- python -m jobs.suggest`."""

from jobs import start

if __name__ == "__main__":
    start("suggest")
