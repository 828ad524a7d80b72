"""moto's S3 server on a port. Write requests are serialized, because moto checks If-None-Match without a lock."""

import sys
import threading
from collections.abc import Callable, Iterable

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

moto, writing = DomainDispatcherApplication(create_backend_app), threading.Lock()


def serve(environ: dict, start_response: Callable) -> Iterable[bytes]:
    """Serve a request."""
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return moto(environ, start_response)
    with writing:
        return list(moto(environ, start_response))


run_simple("127.0.0.1", int(sys.argv[1]), serve, threaded=True)
