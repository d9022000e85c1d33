"""Owns the cloud's one process: it is PID 1 of its own PID, mount and network namespaces, so that all it makes ends
with it. Started by ../cloud.py; knows nothing of tests.

  daemon.py FOLDER ROOTFS NSPAWN CACHE HOST_NETWORK_FD"""

import os
import signal
import ssl
import subprocess
import sys
import threading

from werkzeug.serving import WSGIRequestHandler, make_server

import ec2
import hosts
import names
import network
from guests import Guests
from machines import Machines
from sites import Sites


class Quiet(WSGIRequestHandler):
    """One connection for many requests, and no line for each."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_):
        pass


def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main():
    folder, rootfs, nspawn, cache, host_network = sys.argv[1:]
    network.set_up_bridge()
    guests = Guests(folder, nspawn, rootfs, ec2.images_with_root())
    machines = Machines(guests, hosts.Hosts(folder, rootfs))
    ec2.install(machines)
    fetch = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{host_network}"]
    sites = Sites(os.path.join(cache, "archive"), os.path.join(folder, "mirror"), fetch, ec2.app(), {
        "cut-off": lambda address, server: guests.cut_off(address, server, True),
        "reconnect": lambda address, server: guests.cut_off(address, server, False),
        "leave-free": guests.leave_free,
        "light-image": ec2.light_image,
        "file": ec2.put_file,
        "fail-image": ec2.fail_image,
        "room": lambda place, type, count: ec2.set_room(place, type, count),
        "reservation": lambda type, **said: ec2.reserve(kind=type, **said),
        "quota": ec2.set_quota,
    })
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(os.path.join(folder, "tls.crt"), os.path.join(folder, "tls.key"))
    serve(make_server(network.GATEWAY, 80, sites, threaded=True, request_handler=Quiet))
    serve(make_server(network.GATEWAY, 443, sites, threaded=True, request_handler=Quiet, ssl_context=secure))
    serve(names.serve())
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    subprocess.run(["touch", os.path.join(folder, "ready")], check=True)
    while not ended.wait(1):
        pass
    if not machines.remove_all():
        sys.exit(1)
    # For cloud.py down, which cannot see how a process ends that is not its child.
    subprocess.run(["touch", os.path.join(folder, "ended")], check=True)


if __name__ == "__main__":
    main()
