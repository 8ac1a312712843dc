"""What `nopsd inspect` shows of a scored pool."""
