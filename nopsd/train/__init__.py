"""Training: one loop, batches, sampling, checkpoints, guards and export; algorithms/ and losses/."""
