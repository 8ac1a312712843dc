"""Evaluation: the only room that sees an answer key."""
