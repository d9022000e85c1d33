"""Plays every mirror: serves FOLDER/HOST/PATH on port 80 of the sandbox's loopback, and on 443 where it has a
certificate, and notes who asked for what.

Must not know any distribution: which hosts exist is /etc/hosts, what they hold is FOLDER.
"""

import http.server
import pathlib
import ssl
import sys
import threading
import urllib.parse

FOLDER = pathlib.Path(sys.argv[1])
LOG = FOLDER / "asked"
CERTIFICATE = pathlib.Path("/srv/tls/mirrors.pem")


class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").split(":")[0]
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        parts = [part for part in path.split("/") if part]
        file = FOLDER.joinpath(host, *parts)
        found = bool(host) and ".." not in parts and file.is_file()
        body = file.read_bytes() if found else b"not here\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with LOG.open("a") as log:
            log.write(f"{200 if found else 404} {host}{path}\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 80), Mirror)
if CERTIFICATE.is_file():
    secure = http.server.ThreadingHTTPServer(("127.0.0.1", 443), Mirror)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=secure.serve_forever, daemon=True).start()
print("ready", flush=True)
server.serve_forever()
