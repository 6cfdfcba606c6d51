"""The audit database, the job table and the spool: the only room that knows SQLAlchemy."""
