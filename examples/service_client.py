"""Talk to a running service: a list, an event, the updated preference, and undo.

    mllm-msr serve --run runs/demo
    python examples/service_client.py --url http://127.0.0.1:8000 --user u0001

It needs nothing but Python. docs/http.md describes every request.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Client:
    """Client of the service at a URL, with an API key if the service has keys."""

    url: str
    key: str = ""

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the response, decoded from JSON.

        Raises:
            urllib.error.HTTPError: The service rejected the request; the body explains it.
        """
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["X-API-Key"] = self.key
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def recommend(self, user: str, k: int = 5) -> Any:
        """Return a list of items with the preference that explains them."""
        return self.send("POST", "/v1/recommendations", {"user_id": user, "k": k})

    def preference(self, user: str) -> Any:
        """Return the preference of a user and its history."""
        return self.send("GET", f"/v1/users/{urllib.parse.quote(user, safe='')}/preference")

    def update(self, user: str, *, seconds: float = 60) -> Any:
        """Update the preference of a user to the full history, wait for it, and return it."""
        path = f"/v1/users/{urllib.parse.quote(user, safe='')}/preference"
        self.send("POST", path)
        deadline = time.monotonic() + seconds
        while (found := self.send("GET", path))["updating"] and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


def main() -> None:
    """Send a few requests and print the responses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--user", default="u0001")
    arguments = parser.parse_args()
    client = Client(arguments.url, os.environ.get("MLLM_MSR_API_KEY", ""))
    user = arguments.user

    before = client.recommend(user)
    print(before["preference"])
    for item in before["items"]:
        print(item["rank"], item["item_id"], item["title"], item["score"], item["matches"])

    # The client chooses the id of an event. If no response arrives, it can send the event again.
    event = {"event_id": str(uuid.uuid4()), "user_id": user, "item_id": item["item_id"]}
    print(client.send("POST", "/v1/events", {"events": [event]}))
    print(client.update(user)["preference"])
    after = client.recommend(user)
    print([item["item_id"] for item in after["items"]])

    query = urllib.parse.urlencode({"user_id": user, "event_id": event["event_id"]})
    print(client.send("DELETE", f"/v1/events?{query}"))


if __name__ == "__main__":
    main()
