#!/bin/sh
set -e
for hook in /docker-entrypoint.d/*.sh; do "$hook"; done
exec "$@"
