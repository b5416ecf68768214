"""`ufgvc search`, also for `ray job submit --working-dir . -- python -m jobs.search`."""

from jobs import start

if __name__ == "__main__":
    start("search")
