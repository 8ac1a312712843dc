"""What commands do that are no stage: evaluate, inspect, check, launch, compare. Functions of a configuration."""
