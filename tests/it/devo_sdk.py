"""Queries through countersign with the vendor's own client; prints one JSON line per query.

Arguments: host and port of the proxy. The client's own credentials are dummies.
"""

import json
import sys

from devo.api import Client, ClientConfig

address = f"http://{sys.argv[1]}/search/query"
forms = {
    "key": {"key": "dummy-key", "secret": "dummy-secret"},
    "token": {"token": "dummy-token"},
    "jwt": {"jwt": "dummy-jwt"},
}
for form, auth in forms.items():
    for response in ("json", "json/simple", "json/compact"):
        client = Client(
            auth=auth,
            address=address,
            retries=1,
            timeout=20,
            config=ClientConfig(response=response, stream=response == "json/simple"),
        )
        answer = client.query(
            query="from demo.ecommerce.data select *",
            dates={"from": "2024-01-01 00:00:00", "to": "2024-01-01 01:00:00"},
        )
        if not isinstance(answer, (str, bytes, dict)):
            answer = "".join(
                line if isinstance(line, str) else line.decode() if isinstance(line, bytes) else json.dumps(line)
                for line in answer
            )
        text = answer if isinstance(answer, str) else json.dumps(answer)
        print(json.dumps({"form": form, "response": response, "robot": "robot-07" in text}))
