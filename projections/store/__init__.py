"""The read model in PostgreSQL: connections, statements, checkpoints, generations and every write."""
