"""`nopsd init`: settings for a user's own questions, from the file and the machine."""
