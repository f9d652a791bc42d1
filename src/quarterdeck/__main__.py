"""`python -m quarterdeck` is the command line."""

from quarterdeck.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
