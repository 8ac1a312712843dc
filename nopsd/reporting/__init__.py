"""Tables, figures, the report, comparisons and TensorBoard."""
