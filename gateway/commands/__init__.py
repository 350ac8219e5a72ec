"""The verbs of the `hostelry` command, a file each."""
