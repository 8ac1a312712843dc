"""Sources × methods × seeds compared in the paper's own tables (SPEC §9.4-9.5, issue 6)."""
