"""The NATS edge: reads the stream in order and hands batches to the projections."""
