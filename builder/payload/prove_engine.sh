#!/bin/sh
# Says what a container sees of its folders and of the network, a line each, for `doctor`. Built-in commands only: its
# image has nothing but the shell.
#
#   sh -c "$(cat prove_engine.sh)" doctor TOKEN
if read -r line </mnt/token; then echo "stage $line"; fi
if read -r line </work/token; then echo "tree $line"; fi
if echo "$1" >/work/written; then echo written; fi
# shellcheck disable=SC2034  # the rest of a line of the table is of no use here
while read -r name to rest; do if [ "$to" = 00000000 ]; then echo "route $name"; fi; done </proc/net/route
echo end
