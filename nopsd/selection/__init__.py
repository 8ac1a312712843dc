"""Which questions are trained on and whose answers are their demonstrations (the paper's Algorithm 1 and Eq. 6)."""
