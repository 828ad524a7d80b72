"""Serve an exported SavedModel: image files in, embeddings out.

pip install tensorflow fastapi python-multipart uvicorn    (or this package with its extra `serve`)
python scripts/serve_example.py MODEL [PORT]
"""

import sys
from collections.abc import Awaitable, Callable

import tensorflow as tf
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response, UploadFile

LARGEST_REQUEST, MOST_FILES = 32 * 2**20, 16  # bytes of all files combined; the model itself limits their pixels


def make_app(folder: str) -> FastAPI:
    """A web application that responds to POST /embeddings with the embedding of each uploaded JPEG or PNG file."""
    model = tf.saved_model.load(folder)
    app = FastAPI(title="Image embeddings")

    @app.middleware("http")
    async def limit(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not length.isdecimal():
            return Response("The request needs a Content-Length header.", 411)
        if length and int(length) > LARGEST_REQUEST:
            return Response(f"A request may contain at most {LARGEST_REQUEST} bytes.", 413)
        return await answer(request)

    @app.post("/embeddings")
    def embed(files: list[UploadFile]) -> list[list[float]]:
        if len(files) > MOST_FILES:
            raise HTTPException(413, f"A request may contain at most {MOST_FILES} files.")
        try:
            answer = model.signatures["serve_bytes"](files=tf.constant([file.file.read() for file in files]))
        except tf.errors.InvalidArgumentError as error:
            raise HTTPException(422, "One of the files is not a JPEG or PNG that this model can decode.") from error
        [embeddings] = answer.values()
        return embeddings.numpy().tolist()

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
