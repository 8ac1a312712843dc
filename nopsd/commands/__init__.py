"""One file a command of `nopsd`: its arguments, help and examples, and the one call that does it."""
