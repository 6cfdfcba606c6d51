"""``cxr score``: score files without a server, with the steps of the worker."""
