"""A run: its folder of artefacts, its session, and the order in which stages are brought up to date."""
