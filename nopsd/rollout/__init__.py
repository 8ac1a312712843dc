"""Sampling from rollout servers, and keeping their weights equal to the trainer's."""
