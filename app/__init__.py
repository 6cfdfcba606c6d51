"""The command, and what puts the parts together: imports all, and nothing imports it."""
