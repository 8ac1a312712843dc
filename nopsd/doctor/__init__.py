"""Preflight: what a run would find on its hosts, before it costs anything (`nopsd doctor`, issue 5)."""
