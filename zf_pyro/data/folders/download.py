"""Downloads, checked by hash."""

from pathlib import Path

NLTK_TIMIT = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/timit.zip"
"""The TIMIT sample that NLTK distributes: 160 utterances of 16 training speakers, 22 MB, for non-commercial use."""
NLTK_TIMIT_HASH = "md5:34c047c4749a811287f2c652104d7849"
"""From NLTK's list of packages (https://github.com/nltk/nltk_data, index.xml)."""


def fetch(url: str, known_hash: str, cache: Path | None = None) -> Path:
    """Download a file, or take it from the cache; its hash is checked in both cases.

    Args:
        url: the address of the file.
        known_hash: ``algorithm:hexdigest``, as :func:`pooch.retrieve` takes it.
        cache: the folder to keep it in; by default the user's cache folder of the operating system.

    Raises:
        ImportError: pooch is not installed.
        ConnectionError: the download failed.
        ValueError: the file has another hash; it is not kept.
    """
    try:
        import pooch
    except ImportError as error:
        raise ImportError("downloading needs pooch: pip install zf-pyro[data]") from error
    try:
        path = pooch.retrieve(
            url, known_hash, fname=url.rsplit("/", 1)[-1], path=cache or pooch.os_cache("zf_pyro"), progressbar=True
        )
    except ValueError as error:
        raise ValueError(
            f"{url} is not the file that was expected, {known_hash} ({error}): it was changed there or on its way and "
            "was not kept. Get the data elsewhere, and give its folder as --source"
        ) from error
    except OSError as error:
        raise ConnectionError(
            f"{url} could not be downloaded ({error}): get it by other means, and give its unpacked folder as --source"
        ) from error
    return Path(path)
