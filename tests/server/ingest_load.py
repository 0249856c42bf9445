"""Bots that report as fast as they can and write down what was acknowledged. Run in a process of its own:

    python -m tests.server.ingest_load URL TOKEN ROUND CONNECTIONS

Each connection sends numbered log lines and orders for a model of its own, one at a time and in batches, and prints
`model number` for everything acknowledged. Ends when the server goes.
"""

import asyncio
import json
import sys
from urllib.parse import urlsplit


async def bot(host: str, port: int, token: str, model: str, batch: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    head = (f"POST /workbench/api/events?model={model} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: ").encode()
    number = 0
    try:
        while True:
            lines = []
            for each in range(number, number + batch):
                lines.append({"kind": "log", "line": str(each)} if each % 2 else
                             {"kind": "order", "id": f"o{each}", "symbol": "BTC-USD", "side": "buy", "size": each + 1})
            body = "\n".join(map(json.dumps, lines)).encode()
            writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in answer.split(b"\r\n")
                          if line.lower().startswith(b"content-length:"))
            told = await reader.readexactly(length)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"refused: {told!r}")
            number += batch
            sys.stdout.write(f"{model} {number}\n")
            sys.stdout.flush()
    except (asyncio.IncompleteReadError, OSError):
        pass  # the server is gone
    finally:
        writer.close()


async def main(url: str, token: str, name: str, connections: int) -> None:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    await asyncio.gather(*(bot(parts.hostname, parts.port, token, f"{name}-{number}", 1 if number % 4 else 50)
                           for number in range(connections)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
