#cloud-boothook
#!/bin/sh
<%- for line in description %>
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
# that the first connection already knows whom it speaks with. Again after 5 s, 15 s, 35 s and so on, because a terminal
# that somebody logs in on may lose what is written just then.
(
  until [ -e /var/lib/cloud/instance/boot-finished ]; do sleep 1; done
  pause=5
  while [ "$pause" -le <~ last_pause ~> ] && keys=$(cat /etc/ssh/ssh_host_*_key.pub); do
    printf '\n%s\n%s\n%s\n' "<~ keys_begin ~>" "$keys" "<~ keys_end ~>" >/dev/console
    sleep "$pause"
    pause=$((pause * 2))
  done
) </dev/null >/dev/null 2>&1 &
