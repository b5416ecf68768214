"""`ufgvc audit`, also for `ray job submit --working-dir . -- python -m jobs.audit`."""

from jobs import start

if __name__ == "__main__":
    start("audit")
