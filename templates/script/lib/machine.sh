# shellcheck shell=bash disable=SC2034,SC2153
# Facts of this machine that the plan needs.

# A number of /proc/meminfo; 0 where it has none.
memory() { # KEY
  awk -v key="$1:" '$1 == key { number = $2 } END { print number ? number : 0 }' /proc/meminfo
}

# One job a core, but no more than one for each 2 GiB: nvcc takes 1 to 2 GiB.
job_count() {
  local jobs
  jobs=$(($(memory MemTotal) / 2097152))
  [ "$jobs" -le "$(nproc)" ] || jobs=$(nproc)
  echo $((jobs < 1 ? 1 : jobs))
}
