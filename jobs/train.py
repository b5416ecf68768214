"""`ufgvc train`, also for `ray job submit --working-dir . -- python -m jobs.train`."""

from jobs import start

if __name__ == "__main__":
    start("train")
