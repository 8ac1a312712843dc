"""Questions: where they come from, how they are asked, how an answer is read."""
