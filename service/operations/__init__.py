"""The operators' API, `/ops/…`: what the console shows, for credentials with the scope `operate`."""
