"""Rollouts from a separate vLLM server, and the weights it serves them from."""
