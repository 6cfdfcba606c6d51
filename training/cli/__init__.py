"""The commands ``cxr train``; each imports its modules when it runs."""
