"""What each method of training samples, learns from and logs."""
