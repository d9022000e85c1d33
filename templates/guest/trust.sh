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
put ~/.ssh/efa-gen-block <<'<~ end ~>'
<~ ssh_config ~><~ end ~>
# In FIPS mode an ssh may refuse all of a configuration for one key exchange that it does not know.
ssh -G -T -F ~/.ssh/efa-gen-block 127.0.0.1 >/dev/null 2>&1 ||
  sed -i 's/^  <~ exchange ~> .*/  <~ exchange ~> <~ of_fips ~>/' ~/.ssh/efa-gen-block
touch ~/.ssh/config
# What efa-gen wrote there before goes, known by its own words: its marks may be lost, moved or doubled, and what stands between
# them may be the user's own.
{
  cat ~/.ssh/efa-gen-block
  awk '
    BEGIN {
      count = split("<~ settings ~>", settings, "|")
<%- for names in exchanges %>
      last["  <~ exchange ~> <~ names ~>"]
<%- endfor %>
    }
    # The lines of a section of ours go when the last of them has come; where another line comes, they stay.
    function keep() {
      printf "%s", held
      held = ""
      next_one = 0
    }
    next_one && next_one <= count && $0 == "  " settings[next_one] { held = held $0 "\n"; next_one++; next }
    next_one > count && ($0 in last) { held = ""; next_one = 0; next }
    held == "Host *\n" && $0 == "<~ end_block ~>" { held = ""; next }
    { keep() }
    $0 == "<~ begin_block ~>" || $0 == "<~ end_block ~>" { next }
    /^# [-a-z0-9]*: its own key and its nodes. own host keys, for these addresses alone\.$/ { next }
    $0 == "Host *" { held = "Host *\n"; next }
    /^Host [0-9][0-9. ]*$/ { held = $0 "\n"; next_one = 1; next }
    { print }
    END { keep() }
  ' ~/.ssh/config
} >~/.ssh/config.efa-gen
mv -f ~/.ssh/config.efa-gen ~/.ssh/config
rm -f ~/.ssh/efa-gen-block
put ~/hostfile <<'<~ end ~>'
<~ hostfile ~><~ end ~>
