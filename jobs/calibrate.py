"""`ufgvc calibrate`, also for `ray job submit --working-dir . -- python -m jobs.calibrate`."""

from jobs import start

if __name__ == "__main__":
    start("calibrate")
