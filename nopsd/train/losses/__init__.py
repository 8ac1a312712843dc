"""Losses: divergences, fused linear losses, kernels."""
