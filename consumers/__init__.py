"""The NATS side: reads the stream in order and passes batches to the projections."""
