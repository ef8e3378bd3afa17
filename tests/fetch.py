"""One request for each address named, from wherever this is run: status, then body, of the last one.

In a namespace of its own nothing of the test itself can be reached; the test runs this there.
"""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request


def fetch(url: str, trusted: str | None = None) -> tuple[int, str, str]:
    """Status, type of the content, and the content."""
    context = ssl.create_default_context(cafile=trusted) if url.startswith("https:") else None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])
    )
    try:
        with opener.open(url, timeout=30) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Content-Type", ""), error.read().decode()


if __name__ == "__main__":
    status, _, body = fetch(sys.argv[1])
    print(status)
    print(body, end="")
