"""The REST API: lists the campaigns that a customer is in, from the live generation of the read model."""
