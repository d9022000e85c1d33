# CentOS 7.9.2009: its AMI's files and its mirrors as far as the plan meets them. mirrorlist.centos.org and
# mirror.centos.org do not exist any more.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
FAMILY=rpm
LOGIN_USER=centos
KERNELS="3.10.0-1160.el7.x86_64 3.10.0-1160.118.1.el7.x86_64 3.10.0-1160.119.1.el7.x86_64"
RELEASE_PROVIDES='centos-release = 7-9.2009.1.el7.centos, system-release(releasever) = 7, system-release = 7'

section() { # ID NAME PATH
  cat <<REPO
[$1]
name=CentOS-\$releasever - $2
mirrorlist=http://mirrorlist.centos.org/?release=\$releasever&arch=\$basearch&repo=$3&infra=\$infra
#baseurl=http://mirror.centos.org/centos/\$releasever/$3/\$basearch/
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-7

REPO
}

files() {
  file /etc/os-release <<'TEXT'
NAME="CentOS Linux"
VERSION="7 (Core)"
ID="centos"
ID_LIKE="rhel fedora"
VERSION_ID="7"
PRETTY_NAME="CentOS Linux 7 (Core)"
TEXT
  speak_https vault.centos.org archive.kernel.org
  yum_conf installonly_limit=5 distroverpkg=centos-release sslcacert=/srv/tls/cert.pem '' \
    "#  This is the default, if you make this bigger yum won't see if the metadata" \
    '# is newer on the remote and so you'\''ll "gain" the bandwidth of not having to'
  { section base Base os
    section updates Updates updates
    section extras Extras extras
    section centosplus Plus centosplus | sed '/^gpgcheck/a enabled=0'; } | file /etc/yum.repos.d/CentOS-Base.repo
  file /etc/yum.repos.d/CentOS-CR.repo <<'TEXT'
[cr]
name=CentOS-$releasever - cr
baseurl=http://mirror.centos.org/centos/$releasever/cr/$basearch/
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-7
enabled=0
TEXT
  echo stock >/etc/yum/vars/infra
  cp /srv/pool/keys/ours.asc /etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-7
}

trees() {
  tree vault.centos.org/7.9.2009/os/x86_64 plan kernel:1 base:1
  tree vault.centos.org/7.9.2009/updates/x86_64 kernel:2 base:2
  tree vault.centos.org/7.9.2009/extras/x86_64
}
