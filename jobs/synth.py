"""`python -m jobs.synth --config FILE [flags]`, alone or behind `ray job submit --working-dir . --`."""

import sys

from ufgvc.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["synth", *sys.argv[1:]]))
