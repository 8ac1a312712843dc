"""DeepSpeed engines: process groups, ZeRO-3 models, sharded reads, adapters, memory and attention."""
