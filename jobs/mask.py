"""`ufgvc mask`, also for `ray job submit --working-dir . -- python -m jobs.mask`."""

from jobs import start

if __name__ == "__main__":
    start("mask")
