#!/bin/bash
# Lets a replica connect to the compose file's primary; the image's own rules admit it to databases only.
set -eu
echo 'host replication all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
