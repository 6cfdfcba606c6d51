"""The commands ``cxr audit``, ``cxr jobs`` and ``cxr db``; each verb loads its queries when it is used."""
