"""Owns the cloud's one process: it is PID 1 of its own PID, mount and network namespaces, so that all it makes ends
with it. Started by ../control.py.

  daemon.py FOLDER ROOTFS NSPAWN CACHE HOST_NETWORK_FD"""

import os
import signal
import socketserver
import ssl
import subprocess
import sys
import threading

from werkzeug.serving import WSGIRequestHandler, make_server

from cloud import control_socket
from cloud.ec2 import api
from cloud.guest import hosts
from cloud.guest.guests import Guests
from cloud.guest.machines import Machines
from cloud.iam.callers import judged_by
from cloud.net import names, network
from cloud.net.sites import Sites


class Quiet(WSGIRequestHandler):
    """One connection for many requests, and no line for each."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def serve(server: socketserver.BaseServer) -> None:
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    folder, rootfs, nspawn, cache, host_network = sys.argv[1:]
    network.set_up_bridge()
    guests = Guests(folder, nspawn, rootfs, api.images_with_root())
    machines = Machines(guests, hosts.Hosts(folder, rootfs))
    api.install(machines)
    fetch = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{host_network}"]
    sites = Sites(os.path.join(cache, "archive"), os.path.join(folder, "mirror"), fetch, api.app())
    steer = {
        "fault": sites.fault,
        "cut-off": lambda address, server: guests.cut_off(address, server, True),
        "reconnect": lambda address, server: guests.cut_off(address, server, False),
        "leave-free": guests.leave_free,
        "light-image": api.light_image,
        "file": api.put_file,
        "fail-image": api.fail_image,
        "room": lambda place, type, count: api.set_room(place, type, count),
        "reservation": lambda type, **said: api.reserve(kind=type, **said),
        "quota": api.set_quota,
        "policy": api.limit,
        "judged": api.record,
        "judge": judged_by,
    }
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(os.path.join(folder, "tls.crt"), os.path.join(folder, "tls.key"))
    serve(make_server(network.GATEWAY, 80, sites, threaded=True, request_handler=Quiet))
    serve(make_server(network.GATEWAY, 443, sites, threaded=True, request_handler=Quiet, ssl_context=secure))
    serve(names.serve())
    calls = control_socket.Calls(f"http://{network.GATEWAY}")
    serve(control_socket.Server(os.path.join(folder, "control"), calls, steer))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    subprocess.run(["touch", os.path.join(folder, "ready")], check=True)
    while not ended.wait(1):
        pass
    if not machines.remove_all():
        sys.exit(1)
    # For control.py down, which cannot see how a process ends that is not its child.
    subprocess.run(["touch", os.path.join(folder, "ended")], check=True)


if __name__ == "__main__":
    main()
