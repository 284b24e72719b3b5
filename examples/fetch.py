"""An asyncio function that fetches many URLs at once: one slot has a hundred requests under way. The server is local."""

import asyncio
import http.server
import threading

import plesio

PAGES = 100


async def fetch(port: int, path: str) -> tuple[int, int]:
    """(status, bytes of the page)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    page = await reader.read()
    writer.close()
    return int(page.split()[1]), len(page.partition(b"\r\n\r\n")[2])


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode() * 10)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = PAGES  # all of them may knock at once


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with plesio.connect(workers=1) as client:
        futures = [client.submit(fetch, server.server_port, f"/page/{i}") for i in range(PAGES)]
        results = client.gather(futures)
    print(
        f"{len(results)} pages, {sum(size for _, size in results)} bytes, all ok: {all(ok == 200 for ok, _ in results)}"
    )
