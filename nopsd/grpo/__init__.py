"""Group-relative policy optimisation on label-free rewards: TTRL and Intuitor (SPEC §8.2, §8.3, §8.5)."""
