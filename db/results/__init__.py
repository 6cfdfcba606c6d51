"""Results for readers: filters, queries, masked identifiers, exports."""
