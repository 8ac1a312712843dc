"""Several hosts: hostfile, commands, checks before the start, watchdog, rollout servers elsewhere (issue 5)."""
