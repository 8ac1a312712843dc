"""Evaluation: the only package that sees an answer key."""
