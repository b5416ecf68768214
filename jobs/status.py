"""`ufgvc status`, also for `ray job submit --working-dir . -- python -m jobs.status`."""

from jobs import start

if __name__ == "__main__":
    start("status")
