"""An authorization server built on Authlib, on a free port that it prints, with an API behind it.

Argument: a directory with the keys of its clients, NAME.pem. `/data` wants a token that is good;
`/revoke` takes back all access tokens.
"""

import pathlib
import socket
import sys
import time

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion, JWTBearerGrant
from flask import Flask, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
KEYS = pathlib.Path(sys.argv[1])

listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen(64)
port = listening.getsockname()[1]
ISSUER = f"http://127.0.0.1:{port}"

tokens = {}  # access token -> end of life
refresh_tokens = {}  # refresh token -> client; each is good once
seen_ids = set()


class Client(ClientMixin):
    def __init__(self, client_id, secret, methods, grant_types):
        self.client_id, self.secret = client_id, secret
        self.methods, self.grant_types = methods, grant_types

    def get_client_id(self):
        return self.client_id

    def get_default_redirect_uri(self):
        return None

    def get_allowed_scope(self, scope):
        return " ".join(one for one in (scope or "").split() if one in ("read", "write"))

    def check_redirect_uri(self, redirect_uri):
        return False

    def check_client_secret(self, secret):
        return self.secret is not None and self.secret == secret

    def check_endpoint_auth_method(self, method, endpoint):
        return method in self.methods

    def check_response_type(self, response_type):
        return False

    def check_grant_type(self, grant_type):
        return grant_type in self.grant_types

    def key(self):
        return (KEYS / f"{self.client_id}.pem").read_text()


SECRET = "p%20 w+:&=é%"
ALL = ["client_credentials", "password", "refresh_token"]
clients = {
    client.client_id: client
    for client in (
        Client("basic:1 %é", SECRET, ["client_secret_basic"], ALL),
        Client("post:1 %é", SECRET, ["client_secret_post"], ALL),
        Client("public", None, ["none"], ["password", "refresh_token"]),
        Client("RS256", None, ["client_assertion_jwt"], [*ALL, JWT_BEARER]),
        Client("ES256", None, ["client_assertion_jwt"], [*ALL, JWT_BEARER]),
    )
}


class Password(grants.ResourceOwnerPasswordCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]

    def authenticate_user(self, username, password):
        return username if (username, password) == ("robot", "p&w=1 +%") else None


class Refresh(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token):
        return refresh_tokens.pop(refresh_token, None)

    def authenticate_user(self, refresh_token):
        return "robot"

    def revoke_old_credential(self, refresh_token):
        pass


class Kept:
    def __init__(self, client_id, scope):
        self.client_id, self.scope = client_id, scope

    def check_client(self, client):
        return client.client_id == self.client_id

    def get_scope(self):
        return self.scope


class Assertion(JWTBearerGrant):
    def get_audiences(self):
        return [ISSUER]

    def resolve_issuer_client(self, issuer):
        return clients.get(issuer)

    def resolve_client_public_key(self, client):
        return client.key()

    def authenticate_user(self, subject):
        return subject

    def has_granted_permission(self, client, user):
        return user == "robot"


class ClientAssertion(JWTBearerClientAssertion):
    def get_audiences(self):
        return [ISSUER]

    def validate_jti(self, claims, jti):
        fresh = jti not in seen_ids
        seen_ids.add(jti)
        return fresh and claims["exp"] - claims["iat"] <= 300

    def resolve_client_public_key(self, client):
        return client.key()


def save_token(token, request):
    tokens[token["access_token"]] = time.time() + token["expires_in"]
    if "refresh_token" in token:
        kept = Kept(request.client.client_id, token.get("scope", ""))
        refresh_tokens[token["refresh_token"]] = kept


class ClientCredentials(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = [
        "client_secret_basic",
        "client_secret_post",
        "client_assertion_jwt",
    ]


app = Flask(__name__)
app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
server = AuthorizationServer(app, query_client=clients.get, save_token=save_token)
for grant in (ClientCredentials, Password, Refresh, Assertion):
    server.register_grant(grant)
server.register_client_auth_method("client_assertion_jwt", ClientAssertion())


@app.get("/.well-known/oauth-authorization-server")
def metadata():
    return jsonify(issuer=ISSUER, token_endpoint=f"{ISSUER}/token")


@app.post("/token")
def token():
    return server.create_token_response()


@app.get("/data")
def data():
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Bearer" and tokens.get(token, 0) > time.time():
        return "data"
    return "no", 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'}


@app.post("/revoke")
def revoke():
    tokens.clear()
    return ""


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


serving = make_server(
    "127.0.0.1", port, app, threaded=True, request_handler=Quiet, fd=listening.fileno()
)
print(port, flush=True)
serving.serve_forever()
