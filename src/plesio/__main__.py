"""`python -m plesio` is the `plesio` command."""

from plesio.cli.main import main

if __name__ == "__main__":
    main()
