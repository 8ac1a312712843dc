"""One file a page: from runs and a query to what its template shows."""
