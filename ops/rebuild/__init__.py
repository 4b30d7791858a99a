"""The job behind `membership rebuild` and `membership verify`."""
