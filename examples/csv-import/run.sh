#!/bin/sh
# Publishes the two tables of this folder to the dev stack in ./.membership, or to MEMBERSHIP_NATS_URL.
set -eu
here=$(dirname "$0")
PATH=${here}/../../.venv/bin:$PATH
membership publish "$here/campaigns.csv" --mapping "$here/campaigns.toml"
membership publish "$here/enrolments.csv" --mapping "$here/enrolments.toml" --delimiter ';'
