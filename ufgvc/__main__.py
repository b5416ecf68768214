"""`python -m ufgvc COMMAND`: the same as `ufgvc COMMAND`."""

from ufgvc.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
