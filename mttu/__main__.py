"""`python -m mttu`: the command line."""

from mttu.cli import main

if __name__ == "__main__":
    main()
