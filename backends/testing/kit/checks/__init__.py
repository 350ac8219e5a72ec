"""The checks, a file for each side of the contract."""
