"""One file a command of `nopsd`."""
