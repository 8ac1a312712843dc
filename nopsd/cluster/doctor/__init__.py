"""Checks before a run starts: hosts, memory, prompts, network (`nopsd doctor`)."""
