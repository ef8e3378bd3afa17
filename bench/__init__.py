"""Speed of the whole command and of register look-ups: `make bench`; see README.md here."""
