"""The REST edge: answers which campaigns a customer is in, from the live generation of the read model."""
