"""The metadata service of a cloud machine with a role, as EC2 has it (version 2: a token first). It logs each request.

The keys are read from a JSON file at each request: {"key": ..., "secret": ..., "token": ..., "seconds": until they
expire}; without the file the machine has no role.
"""

from __future__ import annotations

import datetime
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, KEYS, LOG = sys.argv[1:]
ROLES = "/latest/meta-data/iam/security-credentials/"


class Metadata(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        with open(LOG, "a") as file:
            file.write(f"{self.command} {self.path}\n")

    def do_PUT(self) -> None:
        self._say(200 if self.path == "/latest/api/token" else 404, "token-77")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "token-77":
            self._say(401, "")
        elif not self.path.startswith(ROLES) or not Path(KEYS).exists():
            self._say(404, "")
        elif self.path == ROLES:
            self._say(200, "leaf-role")
        else:
            keys = json.loads(Path(KEYS).read_text())
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=keys["seconds"])
            answer = {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "AccessKeyId": keys["key"],
                "SecretAccessKey": keys["secret"],
            }
            self._say(
                200, json.dumps(answer | {"Token": keys["token"], "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ")})
            )

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


ThreadingHTTPServer(("127.0.0.1", int(PORT)), Metadata).serve_forever()
