"""Verifies an assertion with PyJWT and prints its claims.

Arguments: a file with the public key, the algorithm, the audience, the assertion.
"""

import json
import pathlib
import sys

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key

key, algorithm, audience, assertion = sys.argv[1:]
public = load_pem_public_key(pathlib.Path(key).read_bytes())
required = ["iss", "sub", "aud", "exp", "iat", "jti"]
claims = jwt.decode(
    assertion,
    public,
    algorithms=[algorithm],
    audience=audience,
    options={"require": required, "strict_aud": True},
)
print(json.dumps(claims))
