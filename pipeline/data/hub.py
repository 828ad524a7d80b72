"""Data sets of the Hugging Face Hub, downloaded into its library's cache: `hf://datasets/OWNER/NAME[@REVISION][/FILE]`."""

import os
import re

from pipeline.core.errors import PipelineError, RequestError, first_line
from pipeline.data.containers import SUFFIXES as CONTAINERS
from pipeline.data.containers import expand_braces
from pipeline.data.image_names import SUFFIXES

SOURCE = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/+(?P<file>.*?)/*)?", re.DOTALL
)
PREFIX = "hf://"


def is_hub_url(source: object) -> bool:
    """Whether the images are on the Hugging Face Hub."""
    return str(source).startswith(PREFIX)


def local_copy(source: str, may_download: bool = True) -> str:
    """Download the files of a data set that have images, unless they are in huggingface_hub's cache.

    The environment variables HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN are those of huggingface_hub. No code of the data
    set runs. Of a folder in the data set, all files are downloaded.

    Args:
        source: `hf://datasets/OWNER/NAME`, optionally with a revision, and with a file, a folder, or a pattern.
        may_download: Whether to download files that are not in the cache.

    Returns:
        The path of the copy: of the whole data set, or of the file, folder or pattern.

    Raises:
        RequestError: The library is not installed; or there is no such data set, revision or file, or no access to it.
        PipelineError: The Hub does not answer.
    """
    match = SOURCE.fullmatch(source)
    file = (match["file"] or "") if match else ".."
    if not match or ".." in file.split("/"):
        raise RequestError(f"{source} is not the address of a data set, hf://datasets/OWNER/NAME[/FILE].")
    kinds = [f"*{suffix}" for suffix in (*SUFFIXES, *CONTAINERS)]
    files = [pattern for name in expand_braces(file) for pattern in (name, f"{name}/*")] if file else kinds
    folder = _snapshot(source, match["repo"], match["revision"], files, may_download)
    path = os.path.join(folder, file) if file else folder
    if not os.path.exists(path) and expand_braces(file) == [file]:
        raise RequestError(f"{source}: the data set has no such file or folder, or none with images.")
    return path


def _snapshot(source: str, repo: str, revision: str | None, files: list[str], may_download: bool) -> str:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise RequestError(
            f"{source} needs huggingface_hub; install it with pip install 'image-vectors[hf]'."
        ) from error
    try:
        return snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            allow_patterns=files,
            local_files_only=not may_download,
            # The library reads these variables only once, when it is imported.
            endpoint=os.environ.get("HF_ENDPOINT"),
            cache_dir=os.environ.get("HF_HUB_CACHE"),
        )
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise RequestError(
            f"{source}: there is no such data set, or no access to it. Check its name; for access, set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RequestError(f"{source}: the data set has no revision {revision or 'main'!r}.") from error
    except errors.LocalEntryNotFoundError as error:
        if not may_download:
            raise RequestError(
                f"{source} is not in the cache of huggingface_hub. Download it first: "
                f"python -m pipeline extract {source}"
            ) from error
        raise PipelineError(
            f"{source} is not in the cache of huggingface_hub, and the Hub does not answer "
            f"({first_line(error.__cause__ or error)}). Check the network and HF_ENDPOINT."
        ) from error
    except Exception as error:  # httpx's, and the library's own
        raise PipelineError(
            f"{source} cannot be downloaded ({first_line(error)}). Run the same command again."
        ) from error
