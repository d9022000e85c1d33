# Lets the key of cluster <~ name ~> in, from the cluster's addresses alone. Run again, it changes nothing.
set -eu
umask 077
mkdir -p ~/.ssh
touch ~/.ssh/authorized_keys
{
  cat <<'<~ end ~>'
<~ lines ~><~ end ~>
  sed '\|<~ gone ~>|d' ~/.ssh/authorized_keys
} >~/.ssh/authorized_keys.efa-gen
mv -f ~/.ssh/authorized_keys.efa-gen ~/.ssh/authorized_keys
