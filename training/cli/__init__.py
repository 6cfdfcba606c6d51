"""The commands ``cxr train``; each verb loads its modules when it is used."""
