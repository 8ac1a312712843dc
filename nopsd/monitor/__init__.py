"""What a run shows of itself: logged numbers, console progress, figures and the report."""
