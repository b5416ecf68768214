"""`ufgvc sync`, also for `ray job submit --working-dir . -- python -m jobs.sync`."""

from jobs import start

if __name__ == "__main__":
    start("sync")
