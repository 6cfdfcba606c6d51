"""Commands ``cxr audit``, ``cxr jobs`` and ``cxr db``; each imports its queries when it runs."""
