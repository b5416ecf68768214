"""`python -m jobs.bench --config FILE [flags]`, alone or behind `ray job submit --working-dir . --`."""

import sys

from ufgvc.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["bench", *sys.argv[1:]]))
