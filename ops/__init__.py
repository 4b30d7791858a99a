"""The `membership` command: the processes, the dev stack and the operator's tools; imports all other packages."""
