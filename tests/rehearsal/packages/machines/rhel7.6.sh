# RHEL 7.6, with a RHUI client of before December 2019: the repositories that it brought are gone. The update of the client, which
# has a repository of its own, brings the renamed ones.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
MINOR=6
KERNELS="3.10.0-957.el7.x86_64 3.10.0-957.21.3.el7.x86_64 3.10.0-1160.119.1.el7.x86_64"
. /rehearsal/machines/rhel7.sh

old_repositories() {
  section rhui-REGION-rhel-server-releases 'content/dist/rhel/rhui2/server/7/$releasever/$basearch/os' 1
  section rhui-REGION-rhel-server-optional 'content/dist/rhel/rhui2/server/7/$releasever/$basearch/optional/os' 0
}
