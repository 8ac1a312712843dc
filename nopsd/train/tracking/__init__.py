"""Where training numbers are shown besides metrics.jsonl: a small plug-in a place, all fed by one stream of rows."""
