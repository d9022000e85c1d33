# Amazon Linux AMI 2018.03: its AMI's files and its mirrors as far as the plan meets them. Release `latest` is what the
# image follows until the plan pins it: there is a newer kernel there, which must never come.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
FAMILY=rpm
LOGIN_USER=ec2-user
KERNELS="4.14.171-105.231.amzn1.x86_64 4.14.336-179.557.amzn1.x86_64 4.14.336-180.562.amzn1.x86_64"
RELEASE_PROVIDES='system-release = 2018.03'

section() { # ID
  cat <<REPO
[amzn-$1]
name=amzn-$1-Base
mirrorlist=http://repo.\$awsregion.\$awsdomain/\$releasever/$1/mirror.list
mirrorlist_expire=300
metadata_expire=300
priority=10
failovermethod=priority
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-ga
enabled=1
retries=3
timeout=5
REPO
}

files() {
  file /etc/os-release <<'TEXT'
NAME="Amazon Linux AMI"
VERSION="2018.03"
ID="amzn"
ID_LIKE="rhel fedora"
VERSION_ID="2018.03"
TEXT
  yum_conf installonly_limit=5 distroverpkg=system-release timeout=5 retries=7 releasever=latest
  section main | file /etc/yum.repos.d/amzn-main.repo
  section updates | file /etc/yum.repos.d/amzn-updates.repo
  echo us-east-1 >/etc/yum/vars/awsregion
  echo amazonaws.com >/etc/yum/vars/awsdomain
  cp /srv/pool/keys/ours.asc /etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-ga
  # GRUB legacy, and a cloud-init whose last act in a boot is this file.
  file /boot/grub/menu.lst <<TEXT
default=0
timeout=0
hiddenmenu

title Amazon Linux 2018.03 ($(kernel 1))
root (hd0,0)
kernel /boot/vmlinuz-$(kernel 1) root=LABEL=/ console=tty1 console=ttyS0 selinux=0 nvme_core.io_timeout=4294967295
initrd /boot/initramfs-$(kernel 1).img
TEXT
  file /var/lib/cloud/instance/boot-finished </dev/null
}

trees() {
  local host=repo.us-east-1.amazonaws.com packages=packages.us-east-1.amazonaws.com release
  for release in 2018.03 latest; do
    serve "$host/$release/main/mirror.list" <<<"http://$packages/$release/main/201803/x86_64"
    serve "$host/$release/updates/mirror.list" <<<"http://$packages/$release/updates/201803/x86_64"
    tree "$packages/$release/main/201803/x86_64" plan kernel:1 base:1
  done
  tree "$packages/2018.03/updates/201803/x86_64" kernel:2 base:2
  tree "$packages/latest/updates/201803/x86_64" kernel:3 base:9
}
