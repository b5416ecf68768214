"""A program between a client and an S3 server: a proxy, a server with a certificate, or a server with faults.

It logs each request. As a proxy it understands `GET http://...` and CONNECT; called by its own address it passes on to
--upstream. The file of --faults is read at each request:

    [{"status": 503, "code": "SlowDown", "method": "GET", "path": "a", "key": "ACCESSKEY", "times": 2, "cut": 100}]

All but the status is optional. `times` counts down for each new content of the file; `cut` sends so many bytes of the
true answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import select
import socket
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOP = ("connection", "proxy-connection", "keep-alive", "transfer-encoding")


class Middle(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = log = faults = ""
    plan: tuple[str, list[dict[str, Any]]] = ("", [])

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        self._note()
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            self.send_response(200)
            self.end_headers()
            pair = {self.connection: server, server: self.connection}
            while True:
                for ready in select.select(list(pair), [], [], 30)[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return
                    pair[ready].sendall(data)

    def _any(self) -> None:
        self._note()
        body = self._body()
        fault = self._fault()
        if fault and "cut" not in fault:
            code = fault.get("code", "")
            text = f"<Error><Code>{code}</Code><Message>said the middle</Message></Error>".encode() if code else b""
            self._answer(
                fault["status"], {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else text, len(text)
            )
            return
        absolute = urlsplit(self.path)
        host = absolute.netloc or urlsplit(self.upstream).netloc
        path = self.path[len(f"{absolute.scheme}://{absolute.netloc}") :] if absolute.netloc else self.path
        link = http.client.HTTPConnection(host, timeout=60)
        link.request(
            self.command, path, body, {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        )
        answer = link.getresponse()
        data = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in (*HOP, "content-length")}
        length = int(answer.headers.get("Content-Length") or len(data)) if self.command == "HEAD" else len(data)
        self._answer(answer.status, headers, data[: fault["cut"]] if fault else data, length)
        self.close_connection = self.close_connection or bool(fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

    def _body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, headers: dict[str, str], data: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def _fault(self) -> dict[str, Any] | None:
        text = Path(self.faults).read_text() if self.faults and Path(self.faults).exists() else "[]"
        if text != Middle.plan[0]:
            Middle.plan = (text, json.loads(text))
        for fault in Middle.plan[1]:
            asked = (self.headers.get("Authorization") or "", self.path.partition("?")[0])
            fits = (
                fault.get("key", "") in asked[0]
                and asked[1].endswith(fault.get("path", ""))
                and fault.get("times", 1) > 0
            )
            if fits and fault.get("method", self.command) == self.command:
                if "times" in fault:
                    fault["times"] -= 1
                return fault
        return None

    def _note(self) -> None:
        with open(self.log, "a") as file:
            file.write(f"{self.command} {self.path}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for flag in ("--port", "--upstream", "--log", "--faults", "--certificate", "--key"):
        parser.add_argument(flag, default="")
    arguments = parser.parse_args()
    Middle.upstream, Middle.log, Middle.faults = arguments.upstream, arguments.log, arguments.faults
    server = ThreadingHTTPServer(("127.0.0.1", int(arguments.port)), Middle)
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate, arguments.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
