# RHEL 7.6, with a RHUI client of before December 2019: the repositories that it brought have nothing new any more. The
# update of the client brings the renamed ones.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
MINOR=6
KERNELS="3.10.0-957.el7.x86_64 3.10.0-957.21.3.el7.x86_64 3.10.0-1160.119.1.el7.x86_64"
. /rehearsal/machines/rhel7.sh
CLIENT=rh-amazon-rhui-client-3.0.36-1.noarch.rpm

old_repositories() {
  section rhui-REGION-rhel-server-releases 'content/dist/rhel/rhui2/server/7/$releasever/$basearch/os' 1
  section rhui-REGION-rhel-server-optional 'content/dist/rhel/rhui2/server/7/$releasever/$basearch/optional/os' 0
}

build_client() { # VERSION FUNCTION
  mkdir -p /tmp/client/etc/yum.repos.d
  "$2" >/tmp/client/etc/yum.repos.d/redhat-rhui.repo
  client_repository >/tmp/client/etc/yum.repos.d/redhat-rhui-client-config.repo
  cat >/tmp/client.spec <<SPEC
Name: rh-amazon-rhui-client
Version: $1
Release: 1
Summary: stand-in
License: MIT
BuildArch: noarch
%description
.
%install
cp -r /tmp/client/. %{buildroot}/
%files
/etc/yum.repos.d/*.repo
SPEC
  rpm_build /srv/pool/ours /tmp/client.spec
  rpm_sign ours "/srv/pool/ours/rh-amazon-rhui-client-$1-1.noarch.rpm"
}

build_more() {
  build_client 2.2.124 old_repositories
  build_client 3.0.36 rhui_repositories
  rm /etc/yum.repos.d/*.repo
  rpm --install /srv/pool/ours/rh-amazon-rhui-client-2.2.124-1.noarch.rpm
}

more_trees() {
  rhui_tree content/dist/rhel/rhui2/server/7/7.6/x86_64/os
}
