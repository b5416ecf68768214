"""`ufgvc benchmark`, also for `ray job submit --working-dir . -- python -m jobs.benchmark`."""

from jobs import start

if __name__ == "__main__":
    start("benchmark")
