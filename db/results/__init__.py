"""Queries and exports of results, with masked identifiers."""
