"""The `membership` command: the processes, the dev stack and the operator's tools; sits above all other rooms."""
