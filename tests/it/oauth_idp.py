"""nanoidp, an identity provider of other people's making, on a free port that it prints.

Argument: a directory for its configuration and keys. Refresh tokens are replaced at each use.
"""

import logging
import os
import pathlib
import socket
import sys

# It writes keys into the directory that it runs in.
os.chdir(sys.argv[1])

from nanoidp.app import create_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen(64)
port = listening.getsockname()[1]

directory = pathlib.Path(sys.argv[1])
(directory / "settings.yaml").write_text(
    f"""
config_version: 1
server: {{ host: "127.0.0.1", port: {port} }}
oauth:
  issuer: "http://127.0.0.1:{port}"
  audience: "plant"
  token_expiry_minutes: 60
  refresh_token_rotation: true
  clients:
    - client_id: "basic"
      client_secret: "p-w_1.x"
      token_endpoint_auth_method: "client_secret_basic"
    - client_id: "post"
      client_secret: "p&w=1 +%:é"
      token_endpoint_auth_method: "client_secret_post"
    - client_id: "public"
      token_endpoint_auth_method: "none"
device_flow:
  polling_interval: 1
"""
)
(directory / "users.yaml").write_text(
    """
config_version: 1
users:
  robot:
    password: "p&w=1 +%"
    email: "robot@plant.test"
    roles: ["USER"]
"""
)
logging.disable()
app = create_app(config_dir=str(directory))
server = make_server(
    "127.0.0.1", port, app, threaded=True, request_handler=Quiet, fd=listening.fileno()
)
print(port, flush=True)
server.serve_forever()
