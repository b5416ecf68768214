"""`ufgvc serve`, also for `ray job submit --working-dir . -- python -m jobs.serve`."""

from jobs import start

if __name__ == "__main__":
    start("serve")
