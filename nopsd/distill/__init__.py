"""On-policy distillation (SPEC §6): the divergence, the two engines and the loop."""
