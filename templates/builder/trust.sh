# Makes this node one of cluster <~ name ~>: its login user reaches every node by its private address, without a prompt and
# without believing a stranger. Run again, it changes nothing.
set -eu
umask 077
mkdir -p ~/.ssh
put() { cat >"$1.efa-gen" && mv -f "$1.efa-gen" "$1"; }
put ~/.ssh/efa-gen-cluster <<'<~ end ~>'
<~ private ~><~ end ~>
put ~/.ssh/efa-gen-known-hosts <<'<~ end ~>'
<~ known_hosts ~><~ end ~>
put ~/.ssh/efa-gen-config <<'<~ end ~>'
<~ ssh_config ~><~ end ~>
touch ~/.ssh/config
{
  cat ~/.ssh/efa-gen-config
  sed '/^<~ begin_block ~>$/,/^<~ end_block ~>$/d' ~/.ssh/config
} | put ~/.ssh/config
rm -f ~/.ssh/efa-gen-config
put ~/hostfile <<'<~ end ~>'
<~ hostfile ~><~ end ~>
