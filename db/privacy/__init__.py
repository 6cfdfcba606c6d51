"""Forget a patient: rows, files, backups and copies."""
