"""PostgreSQL and nats-server as child processes, for `membership dev` and for the tests; never for production."""
