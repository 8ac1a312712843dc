"""Launching over one host or several: hostfile, commands, checks before the start, watchdog, rollout servers."""
