"""`python -m common` is the command `garrison`, for where no script is installed."""

from common.cli import main

if __name__ == "__main__":
    main()
