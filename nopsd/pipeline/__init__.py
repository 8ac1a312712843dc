"""The run as a list of stages: what each reads and writes, and how it is started."""
