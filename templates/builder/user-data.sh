#cloud-boothook
#!/bin/sh
<%- for line in about %>
# <~ line ~>
<%- endfor %>

# Whatever became of efa-gen: an instance that nobody has ended by now ends itself. Its shutdown behaviour is "terminate".
(
  left=$((<~ deadline ~> - $(date +%s)))
  [ "$left" -ge 60 ] || left=60
  # A clock that is wrong must not keep it alive.
  [ "$left" -le <~ longest ~> ] || left=<~ longest ~>
  sleep "$left"
  shutdown -h now
) </dev/null >/dev/null 2>&1 &

# The public halves of the host keys, once cloud-init has made them all: the console is read over the authenticated API, so
# that the first connection already knows whom it speaks with.
(
  until [ -e /var/lib/cloud/instance/boot-finished ]; do sleep 1; done
  {
    echo
    echo "<~ keys_begin ~>"
    cat /etc/ssh/ssh_host_*_key.pub
    echo "<~ keys_end ~>"
  } >/dev/console
) </dev/null >/dev/null 2>&1 &
