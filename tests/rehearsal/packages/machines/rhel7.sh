# What the RHEL 7 minor releases have in common; sourced by theirs. 7Server is what a machine follows until the plan pins
# the minor release: there is a newer kernel there, which must never come. hwloc-devel is in the optional repository.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
FAMILY=rpm
LOGIN_USER=ec2-user
OPTIONAL=hwloc-devel
RELEASE_PROVIDES="redhat-release-server = 7.$MINOR, system-release(releasever) = 7Server, system-release = 7.$MINOR"
RHUI=rhui3.us-east-1.aws.ce.redhat.com

section() { # ID PATH ENABLED
  cat <<REPO
[$1]
name=$1
mirrorlist=http://$RHUI/pulp/mirror/$2
enabled=$3
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-redhat-release

REPO
}

rhui_repositories() {
  section rhel-7-server-rhui-rpms 'content/dist/rhel/rhui/server/7/$releasever/$basearch/os' 1
  section rhel-7-server-rhui-optional-rpms 'content/dist/rhel/rhui/server/7/$releasever/$basearch/optional/os' 0
}

client_repository() {
  section rhui-client-config-server-7 'protected/rhui-client-config/rhel/server/7/$basearch/os' 1
}

files() {
  file /etc/os-release <<TEXT
NAME="Red Hat Enterprise Linux Server"
VERSION="7.$MINOR (Maipo)"
ID="rhel"
ID_LIKE="fedora"
VERSION_ID="7.$MINOR"
TEXT
  yum_conf installonly_limit=3 '' '# PUT YOUR REPOS HERE OR IN separate files named file.repo' '# in /etc/yum.repos.d'
  cp /srv/pool/keys/ours.asc /etc/pki/rpm-gpg/RPM-GPG-KEY-redhat-release
}

# The repositories that the image's client brought.
old_repositories() { rhui_repositories; }

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
  rpm --install /srv/pool/ours/rh-amazon-rhui-client-2.2.124-1.noarch.rpm
}

# RHUI answers with the address of a content delivery server.
rhui_tree() { # PATH WORD...
  serve "$RHUI/pulp/mirror/$1" <<<"http://cds.$RHUI/pulp/repos/$1"
  tree "cds.$RHUI/pulp/repos/$1" "${@:2}"
}

trees() {
  local server=content/dist/rhel/rhui/server/7
  rhui_tree "$server/7.$MINOR/x86_64/os" plan kernel:1 base:1 kernel:2 base:2
  rhui_tree "$server/7.$MINOR/x86_64/optional/os" optional
  rhui_tree "$server/7Server/x86_64/os" plan kernel:1 base:1 kernel:2 base:2 kernel:3 base:9
  rhui_tree "$server/7Server/x86_64/optional/os" optional
  rhui_tree protected/rhui-client-config/rhel/server/7/x86_64/os rh-amazon-rhui-client-3.0.36-1.noarch.rpm
}
