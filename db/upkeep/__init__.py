"""Upkeep of the database: retention, integrity check, backup, snapshot, leases, changes of the clock."""
