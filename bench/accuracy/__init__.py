"""How much is found, and what is found wrongly: `make accuracy` (docs/accuracy.md)."""
