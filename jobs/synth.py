"""`ufgvc synth`, also for `ray job submit --working-dir . -- python -m jobs.synth`."""

from jobs import start

if __name__ == "__main__":
    start("synth")
