"""Tests what light hosts read of their user-data, and files that are put into a root. Needs no root: no host is made.

Run by `python -m cloud.tests`.
"""

import gzip
import json
import os
import tempfile
import unittest

from cloud.guest import hosts, roots

KEY, OTHER = "ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"


def archive(*parts: str | tuple[str, str]) -> str:
    """User-data of these parts; a pair is a part and its type."""
    listed = [part if isinstance(part, str) else {"content": part[0], "type": part[1]} for part in parts]
    return "#cloud-config-archive\n" + json.dumps(listed)


class UserData(unittest.TestCase):
    def test_keys(self) -> None:
        config = "#cloud-config\n" + json.dumps({"ssh_authorized_keys": [KEY]})
        yaml = f"#cloud-config\nssh_authorized_keys:\n  - {OTHER}\npackages: [x]\n"
        hook = "#cloud-boothook\n#!/bin/sh\necho ssh_authorized_keys\n"
        for text, keys in (
            (archive((hook, "text/cloud-boothook"), (config, "text/cloud-config")), [KEY]),
            (archive((config, "text/cloud-config"), (yaml, "text/cloud-config")), [KEY, OTHER]),
            (archive(config, hook), [KEY]), (yaml, [OTHER]), ("#cloud-config\n", []),
            ("#cloud-config\npackages: [x]\n", []),
            ("#cloud-config\n- a list\n", []), ("#!/bin/sh\nssh_authorized_keys: [x]\n", []), ("", []),
        ):
            with self.subTest(text):
                self.assertEqual(hosts.authorized(text), keys)
        with self.assertRaises(hosts.yaml.YAMLError):
            hosts.authorized("#cloud-config\n{")

    def test_what_is_packed(self) -> None:
        self.assertEqual(hosts.told(gzip.compress(b"#cloud-config\n")), "#cloud-config\n")
        self.assertEqual(hosts.told(b"#!/bin/sh\n\xff"), "#!/bin/sh\n\ufffd")

    def test_the_runs_mark(self) -> None:
        found = hosts.MARK.search('echo "-----EFA-GEN BEGIN HOST KEYS 20260101-000000-abcd-----"')
        assert found is not None
        self.assertEqual(found[1], "20260101-000000-abcd")
        self.assertIsNone(hosts.MARK.search("-----BEGIN SSH HOST KEY KEYS-----"))

    def test_each_key_is_another(self) -> None:
        (one, public), (two, _) = hosts.new_key("a"), hosts.new_key("b")
        self.assertTrue(public.startswith("ssh-ed25519 AAAA") and public.endswith(" root@a"))
        self.assertNotEqual(one, two)


class Roots(unittest.TestCase):
    def test_files(self) -> None:
        with tempfile.TemporaryDirectory() as root:
            roots.put_file(root, "/etc/a/b", "x\n", 0o600)
            os.symlink("/nowhere", f"{root}/etc/link")
            roots.put_file(root, "/etc/link", "y\n")
            with open(f"{root}/etc/link", encoding="utf-8") as file:
                self.assertEqual((file.read(), os.path.islink(f"{root}/etc/link")), ("y\n", False))
            self.assertEqual(os.stat(f"{root}/etc/a/b").st_mode & 0o777, 0o600)
            for path in ("/../escaped", "../../x", ".."):
                with self.assertRaises(ValueError):
                    roots.put_file(root, path, "x")

    def test_hardware(self) -> None:
        facts = {"instance-type": "p4d.24xlarge", "efa-devices": "4", "gpus": "8", "gpu": "A100"}
        self.assertEqual(roots.hardware(facts), "instance-type p4d.24xlarge\nefa-devices 4\ngpus 8\ngpu A100\n")
        self.assertEqual(roots.hardware({}), "instance-type\nefa-devices\ngpus\ngpu\n")
