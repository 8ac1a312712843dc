"""Figures: the style, and those of training, of evaluation and of the pool."""
