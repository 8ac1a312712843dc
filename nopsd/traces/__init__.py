"""Traces: what the student said in each training step, and what both roles thought of each token."""
