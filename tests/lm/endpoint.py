"""An endpoint on this machine whose replies a test decides."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from strop.decoding import GREEDY
from strop.lm import RemoteConfig, RemoteModel, open_model

Reply = tuple[int, dict[str, Any] | str, dict[str, str]]  #: status, body and headers

#: A reply whose end never comes
CUT: Reply = (200, '{"choices": [', {"Content-Length": "1000"})


def answer(text: str, **choice: Any) -> Reply:
    message = {"index": 0, "message": {"role": "assistant", "content": text}, **choice}
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"finish_reason": "stop", **message}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
    return 200, body, {}


class Endpoint:
    """A server whose replies a test decides."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]) -> None:
        self.reply = reply
        self.asked: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.drips = 0.0  #: seconds between two bytes of a reply; 0: all at once
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.asked.append(body)
                    number = len(endpoint.asked)
                    endpoint.at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
                status, content, headers = endpoint.reply(body, number)
                with lock:
                    endpoint.at_once -= 1
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                usual = {"Content-Type": "application/json", "Content-Length": str(len(data))}
                for name, value in (usual | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                for byte in [data] if not endpoint.drips else [data[n : n + 1] for n in range(99)]:
                    time.sleep(endpoint.drips)
                    self.wfile.write(byte)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def asked(place: Endpoint, count: int, **config: Any) -> tuple[RemoteModel, dict[int, Any]]:
    model = open_model(f"{place.address}#m", remote=RemoteConfig(**{"retries": 0, **config}))
    assert isinstance(model, RemoteModel)
    prompts = [f"question {number}" for number in range(count)]
    return model, dict(model.generate(prompts, [GREEDY] * count))


def echo(body: dict[str, Any], _: int) -> Reply:
    return answer(body["messages"][0]["content"].replace("question", "answer"))
