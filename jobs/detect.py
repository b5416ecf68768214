"""`ufgvc detect`, also for `ray job submit --working-dir . -- python -m jobs.detect`."""

from jobs import start

if __name__ == "__main__":
    start("detect")
