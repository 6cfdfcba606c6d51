"""SQLite itself: connections, migrations, copies of a live database."""
