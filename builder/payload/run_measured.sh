#!/bin/sh
# Runs a command in a container and says afterwards what it took, on a line that starts with a word only this run knows:
# CPU time (nanoseconds of cgroup v1, microseconds of v2) and peak memory (bytes). A container's counters are gone once it
# has ended. The first of each pair of paths is cgroup v1's, the second v2's.
#
#   sh -c "$(cat run_measured.sh)" run WORD COMMAND...
word=$1
shift
"$@"
code=$?
first() { for f in "$@"; do if [ -r "$f" ]; then head -n 1 "$f"; return; fi; done; echo -; }
c=/sys/fs/cgroup
nano=$(first $c/cpuacct/cpuacct.usage $c/cpu,cpuacct/cpuacct.usage)
micro=-
if [ -r $c/cpu.stat ]; then micro=$(sed -n 's/^usage_usec //p' $c/cpu.stat); fi
peak=$(first $c/memory/memory.max_usage_in_bytes $c/memory.peak)
printf '\n%s %s %s %s\n' "$word" "$nano" "${micro:--}" "$peak"
exit $code
