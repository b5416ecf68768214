"""`ufgvc bench`, also for `ray job submit --working-dir . -- python -m jobs.bench`."""

from jobs import start

if __name__ == "__main__":
    start("bench")
