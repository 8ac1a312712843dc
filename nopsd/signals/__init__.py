"""What selectors and retrievers other than the paper's go by: columns of texts, of a forward pass, of sampling."""
