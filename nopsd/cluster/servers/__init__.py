"""Rollout servers: vLLM processes on this host and, over ssh, on others; their command line, key and life."""
