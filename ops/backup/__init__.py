"""`membership backup` and `membership restore`: the stream and the part of the database that it does not explain."""
