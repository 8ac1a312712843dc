"""Fine-tuning on given responses: LMSI, and NAIT's selection (SPEC §8.1)."""
