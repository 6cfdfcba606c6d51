"""``cxr score``: score files without a server, exactly as the worker would."""
