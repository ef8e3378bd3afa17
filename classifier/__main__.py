"""`python -m classifier` is the command `vpn-classifier`."""

from classifier.cli import main

if __name__ == "__main__":
    main()
