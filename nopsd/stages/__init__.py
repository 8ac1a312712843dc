"""One file a stage: what it reads, which keys shape it, where it runs, and its work."""
