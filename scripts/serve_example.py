"""A server around an exported SavedModel: image files in, embeddings out.

pip install tensorflow fastapi python-multipart uvicorn    (beside this package: its extra `serve`)
python scripts/serve_example.py MODEL [PORT]
"""

import sys

import tensorflow as tf
import uvicorn
from fastapi import FastAPI, HTTPException, UploadFile


def make_app(folder: str) -> FastAPI:
    """A web application that answers POST /embeddings with the embedding of each uploaded JPEG or PNG file."""
    model = tf.saved_model.load(folder)
    app = FastAPI(title="Image embeddings")

    @app.post("/embeddings")
    def embed(files: list[UploadFile]) -> list[list[float]]:
        try:
            answer = model.signatures["serve_bytes"](files=tf.constant([file.file.read() for file in files]))
        except tf.errors.InvalidArgumentError as error:
            raise HTTPException(422, "One of the files is not a JPEG or PNG that can be decoded.") from error
        [embeddings] = answer.values()
        return embeddings.numpy().tolist()

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
