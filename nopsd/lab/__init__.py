"""The embedded lab: a synthetic world, and a small model trained on it."""
