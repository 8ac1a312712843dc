"""nopsd: Neuron On-Policy Self-Distillation (arXiv 2607.02460) on DeepSpeed and vLLM."""

__version__ = "0.1.0"
