"""`ufgvc promote`, also for `ray job submit --working-dir . -- python -m jobs.promote`."""

from jobs import start

if __name__ == "__main__":
    start("promote")
