"""Classify and rerank by ONNX Runtime behind FastAPI: serve_fastapi.py MODEL.onnx TOKENIZER.json PORT THREADS

As fast as this stack goes without leaving it: uvicorn on uvloop and httptools, the Rust tokenizer, and one batch at a time that takes
every request that waits, in parts of texts of about the same length, so that little is padded. Answers as Koma does, as far as the
client looks.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from tokenizers import Tokenizer

from encoding import padded

#: Texts of one run; fewer pad less, more are computed better.
PART = 16


class Model:
    """The session and its tokenizer."""

    def __init__(self, file: str, tokenizer: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.types = {one.name: "int32" if one.type == "tensor(int32)" else "int64" for one in self.session.get_inputs()}
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(512)

    def tokenize(self, texts: list) -> list[list[int]]:
        return [one.ids for one in self.tokenizer.encode_batch_fast(texts)]

    def logits(self, texts: list[list[int]]) -> numpy.ndarray:
        """A row for each text."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = [None] * len(texts)
        for start in range(0, len(order), PART):
            part = order[start : start + PART]
            values = padded([texts[i] for i in part])
            inputs = {name: values[name].astype(kind, copy=False) for name, kind in self.types.items()}
            for i, row in zip(part, self.session.run(None, inputs)[0]):
                rows[i] = row
        return numpy.stack(rows)


class Batches:
    """Runs what waits together, one batch at a time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.waiting: asyncio.Queue = asyncio.Queue()
        self.worker = ThreadPoolExecutor(1)

    async def compute(self, texts: list) -> tuple[numpy.ndarray, int]:
        """Logits of texts or pairs of them, and how many tokens they have."""
        done = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((texts, done))
        return await done

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            while not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            try:
                results = await loop.run_in_executor(self.worker, self._batch, [texts for texts, _ in batch])
                for (_, done), result in zip(batch, results):
                    if not done.done():
                        done.set_result(result)
            except Exception as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)

    def _batch(self, requests: list[list]) -> list[tuple[numpy.ndarray, int]]:
        ids = self.model.tokenize([text for texts in requests for text in texts])
        rows, results, start = self.model.logits(ids), [], 0
        for texts in requests:
            end = start + len(texts)
            results.append((rows[start:end], sum(map(len, ids[start:end]))))
            start = end
        return results


def application(batches: Batches) -> FastAPI:
    @asynccontextmanager
    async def life(_: FastAPI):
        task = asyncio.create_task(batches.run())
        yield
        task.cancel()

    app = FastAPI(lifespan=life)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({})

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"data": [{"id": "model"}]})

    @app.post("/classify")
    async def classify(request: Request) -> JSONResponse:
        given = (await request.json())["input"]
        texts = [given] if isinstance(given, str) else given
        logits, tokens = await batches.compute(texts)
        weights = numpy.exp(logits - logits.max(axis=1, keepdims=True))
        probs = weights / weights.sum(axis=1, keepdims=True)
        data = [{"index": i, "probs": row} for i, row in enumerate(probs.tolist())]
        return JSONResponse({"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    @app.post("/v1/rerank")
    async def rerank(request: Request) -> JSONResponse:
        body = await request.json()
        logits, tokens = await batches.compute([(body["query"], document) for document in body["documents"]])
        scores = 1 / (1 + numpy.exp(-logits[:, 0]))
        results = [{"index": int(i), "relevance_score": float(scores[i])} for i in numpy.argsort(-scores)]
        return JSONResponse({"results": results, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    return app


if __name__ == "__main__":
    file, tokenizer, port, threads = sys.argv[1:5]
    app = application(Batches(Model(file, tokenizer, int(threads))))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False, loop="uvloop", http="httptools")
