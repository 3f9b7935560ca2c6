"""`python -m tunewright`: the command, for whoever starts it without the executable."""

from tunewright.cli.main import main

if __name__ == "__main__":
    main()
