"""What every way of training shares: rollouts of a step, batches, checkpoints, guards, the export (SPEC §6.2)."""
