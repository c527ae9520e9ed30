"""A classifier behind HTTP: serve_onnxruntime.py MODEL.onnx PORT THREADS. Answers `koma bench serve --endpoint classify`.

ONNX Runtime with its own defaults, one session for all requests, a thread for each connection.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy
import onnxruntime


def load(file: str, threads: int):
    """The function from token ids to probabilities."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}

    def run(ids: list[int]) -> list[float]:
        row = numpy.array([ids], dtype="int64")
        all = {"input_ids": row, "attention_mask": numpy.ones_like(row), "token_type_ids": numpy.zeros_like(row)}
        logits = session.run(None, {name: all[name] for name in wanted})[0][0]
        weights = numpy.exp(logits - logits.max())
        return (weights / weights.sum()).tolist()

    return run


def handler(run):
    """Answers as Koma does, as far as the client looks."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._send({"data": [{"id": "intent"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            probs = run(body["input"])
            usage = {"prompt_tokens": len(body["input"]), "total_tokens": len(body["input"])}
            self._send({"data": [{"index": 0, "probs": probs}], "usage": usage})

        def _send(self, value):
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    Handler.disable_nagle_algorithm = True
    return Handler


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), handler(load(sys.argv[1], int(sys.argv[3])))).serve_forever()
