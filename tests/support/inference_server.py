"""Serves endpoints over HTTP as Hugging Face's inference toolkit does: a request becomes one call of the handler.

The body is JSON, or an unencoded image or audio; query parameters are `parameters` if the body has none; the handler's
result is sent as JSON, and its exceptions are answered with 400 and `{"error": ...}`. The toolkit serves one model per
process; here each folder below the root is served with its own name.
Source: https://github.com/huggingface/huggingface-inference-toolkit, webservice_starlette.py and utils.py

Run by the interpreter of an environment without this package: it needs only the standard library.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

HANDLERS = {}


def handler_of(folder):
    if folder not in HANDLERS:
        spec = importlib.util.spec_from_file_location(f"handler_{folder.name}", folder / "handler.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        HANDLERS[folder] = module.EndpointHandler(str(folder))
    return HANDLERS[folder]


def deserialized(content_type, body):
    kind = content_type.partition("/")[0]
    if kind == "image":
        from PIL import Image

        return {"inputs": Image.open(io.BytesIO(body)).convert("RGB")}
    if kind == "audio":
        return {"inputs": bytes(body)}
    return json.loads(body)


def number(text):
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.isdigit() else text


class Server(BaseHTTPRequestHandler):
    root = Path()
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = urlsplit(self.path)
        try:
            data = deserialized(self.headers["Content-Type"], body)
            if "inputs" not in data:
                raise ValueError(f"Body needs to provide a inputs key, received: {data}")
            if url.query and "parameters" not in data:
                data["parameters"] = {key: number(text) for key, text in parse_qsl(url.query)}
            self.answer(200, handler_of(self.root / url.path.strip("/"))(data))
        except Exception as error:  # noqa: BLE001 - as the toolkit does
            self.answer(400, {"error": str(error)})

    def answer(self, status, content):
        try:
            text = json.dumps(content, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            status, text = 500, json.dumps({"error": f"no JSON: {error}"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    Server.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    print(server.server_address[1], flush=True)
    server.serve_forever()
