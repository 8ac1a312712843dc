"""`nopsd view`: pages over run folders, made on the server, read-only."""
