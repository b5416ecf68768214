"""`ufgvc pretrain`, also for `ray job submit --working-dir . -- python -m jobs.pretrain`."""

from jobs import start

if __name__ == "__main__":
    start("pretrain")
