"""The event contract: exact copies of the modules with which the service decodes the stream."""
