"""`python -m jobs.pretrain --config FILE [flags]`, alone or behind `ray job submit --working-dir . --`."""

import sys

from ufgvc.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["pretrain", *sys.argv[1:]]))
