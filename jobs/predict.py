"""`ufgvc predict`, also for `ray job submit --working-dir . -- python -m jobs.predict`."""

from jobs import start

if __name__ == "__main__":
    start("predict")
