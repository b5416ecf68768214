"""`python -m jobs.export --config FILE [flags]`, alone or behind `ray job submit --working-dir . --`."""

import sys

from ufgvc.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["export", *sys.argv[1:]]))
