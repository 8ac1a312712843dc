"""Sources, methods and seeds compared in the tables of the paper."""
