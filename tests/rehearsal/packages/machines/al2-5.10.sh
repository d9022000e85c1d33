# Amazon Linux 2 with kernel 5.10, which gcc 10 built, and with its gcc 10 at the mirrors: its AMI's files and its mirrors as far as the plan meets them.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
FAMILY=rpm
LOGIN_USER=ec2-user
KERNELS="5.10.9-5.amzn2.x86_64 5.10.234-225.910.amzn2.x86_64 5.10.235-227.919.amzn2.x86_64"
RELEASE_PROVIDES='system-release(releasever) = 2, system-release = 2'

files() {
  file /etc/os-release <<'TEXT'
NAME="Amazon Linux"
VERSION="2"
ID="amzn"
ID_LIKE="centos rhel fedora"
VERSION_ID="2"
TEXT
  yum_conf installonly_limit=3 distroverpkg=system-release timeout=5 retries=7
  file /etc/yum.repos.d/amzn2-core.repo <<'TEXT'
[amzn2-core]
name=Amazon Linux 2 core repository
mirrorlist=$awsproto://$amazonlinux.$awsregion.$awsdomain/$releasever/$product/$target/$basearch/mirror.list
priority=10
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-linux-2
enabled=1
metadata_expire=300
mirrorlist_expire=300
TEXT
  echo 'Linux version 5.10.234 (mockbuild@amazon) (gcc10-gcc (GCC) 10.5.0 20230707 (Red Hat 10.5.0-1), GNU ld version 2.35.2-9.amzn2.0.1) #1 SMP' \
    >/run/rehearsal/version
  local pair
  # awsproto is https on the AMI; the sandbox's mirrors speak http alone.
  for pair in awsproto=http amazonlinux=amazonlinux awsregion=us-east-1 awsdomain=amazonaws.com product=core target=latest; do
    echo "${pair#*=}" >"/etc/yum/vars/${pair%%=*}"
  done
  cp /srv/pool/keys/ours.asc /etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-linux-2
}

build_more() {
  cat >/tmp/gcc10.spec <<'SPEC'
Name: gcc10
Version: 10.5.0
Release: 1
Summary: stand-in
License: MIT
BuildArch: noarch
%description
.
%install
mkdir -p %{buildroot}/usr/bin
printf '#!/bin/sh\necho 10.5.0\n' >%{buildroot}/usr/bin/gcc10-gcc
chmod 0755 %{buildroot}/usr/bin/gcc10-gcc
%files
/usr/bin/gcc10-gcc
SPEC
  rpm_build /srv/pool/ours /tmp/gcc10.spec
  rpm_sign ours /srv/pool/ours/gcc10-10.5.0-1.noarch.rpm
}

trees() {
  local host=amazonlinux.us-east-1.amazonaws.com
  serve "$host/2/core/latest/x86_64/mirror.list" <<<"http://$host/2/core/2.0/x86_64/9a4f"
  tree "$host/2/core/2.0/x86_64/9a4f" plan kernel:1 base:1 kernel:2 base:2 gcc10-10.5.0-1.noarch.rpm
}
