"""A separate program (arguments RAYLET GCS) that outlives a run and reports if Ray ended it.

Ray ends a process at once, without a message, when the raylet of its node or the GCS of its cluster is gone. A run that
ends by itself writes to this program's stdin.
"""

import socket
import sys

SECONDS = 5.0  # to connect


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as connection:
        connection.settimeout(SECONDS)
        try:
            connection.connect(address)
        except OSError:
            return False
    return True


def main() -> None:
    """Wait for the end of the run; if it did not end by itself, report which of Ray's programs is gone."""
    raylet, gcs = sys.argv[1:]
    if sys.stdin.buffer.read():
        return
    host, _, port = gcs.rpartition(":")
    gone = []
    if not _answers(socket.AF_UNIX, raylet):
        gone.append("raylet")
    if not _answers(socket.AF_INET, (host, int(port))):
        gone.append("gcs_server")
    if gone:
        print(
            f"error: Ray has ended the run: its program {' and '.join(gone)} is gone (killed, possibly out of "
            "memory). What was computed before is stored; the same command resumes.",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
