"""Commands of `hostelry`, one file each."""
