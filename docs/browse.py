"""Open every page of the built site in a browser: ``python docs/browse.py SITE [--out FOLDER]``.

Each page is opened at the widths of a desktop and of a phone. Reported are errors in the console, requests that failed,
pages wider than the phone, pictures without a description, links inside that lead nowhere, and a search without
results. Screenshots go to ``--out``. Needs ``pip install "zf-pyro[browser]"`` and Chromium (``--browser`` names its
program).
"""

import argparse
import functools
import http.server
import shutil
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

from playwright.sync_api import Page, TimeoutError, sync_playwright

WIDTHS = {"desktop": 1280, "phone": 390}
"""Pixels. 390 is the width of a common phone."""
WORD = "annealing"
"""What is searched for."""
TALLEST = 8_000
"""Pixels of a screenshot: browsers refuse those of the longest pages."""
BARE = "[...document.querySelectorAll('main img')].filter(i => !i.alt || i.alt == i.getAttribute('src')).length"
"""Counts the pictures of a page that have no description of their own."""


class Links(HTMLParser):
    """Targets of links, and names that links can lead to, on one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note a link's target, and any tag's name."""
        found = dict(attributes)
        if tag == "a" and found.get("href"):
            self.targets.append(str(found["href"]))
        self.names |= {str(found[key]) for key in ("id", "name") if found.get(key)}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def lost_links(site: Path) -> list[str]:
    """Links inside the site that lead to no file, or to no name on a page."""
    pages = {page: Links(page.read_text()) for page in site.rglob("*.html")}
    lost = []
    for page, links in pages.items():
        for target in links.targets:
            if urlparse(target).scheme or target.startswith("//"):
                continue
            path, name = urldefrag(urljoin(page.as_uri(), target))
            place = Path(unquote(urlparse(path).path))
            place = place / "index.html" if place.is_dir() else place
            if not place.exists():
                lost.append(f"{page.relative_to(site)} links to {target}")
            elif name and place in pages and unquote(name) not in pages[place].names:
                lost.append(f"{page.relative_to(site)} links to {target}, which has no such part")
    return lost


def looked_at(page: Page, address: str, phone: bool) -> list[str]:
    """Open a page; its faults."""
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    page.goto(address, wait_until="load")
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if phone and wide > 0:
        faults.append(f"{wide} pixels wider than a phone")
    bare = page.evaluate(BARE)
    if bare:
        faults.append(f"{bare} pictures without a description")
    return faults


def searched(page: Page, address: str, word: str) -> list[str]:
    """Search the site for a word, without a network; a fault where nothing is found."""
    page.goto(f"{address}/search.html?q={word}", wait_until="load")
    try:
        page.wait_for_selector("ul.search li a", timeout=20_000)
    except TimeoutError:
        return [f"search: nothing is found for {word!r}"]
    return []


def main() -> None:
    """Open all pages, and report faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="Folder of the built site.")
    parser.add_argument("--out", type=Path, help="Folder for screenshots.")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    given = parser.parse_args()
    site = given.site.resolve()
    faults = lost_links(site)
    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages = sorted(page for page in site.rglob("*.html") if not page.relative_to(site).parts[0].startswith("_"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        for kind, width in WIDTHS.items():
            for path in pages:
                name = path.relative_to(site).with_suffix("")
                page = browser.new_page(viewport={"width": width, "height": 900})
                found = looked_at(page, f"http://127.0.0.1:{server.server_port}/{name}.html", kind == "phone")
                faults += [f"{name} ({kind}): {fault}" for fault in found]
                if given.out is not None:
                    given.out.mkdir(parents=True, exist_ok=True)
                    height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
                    part = {"x": 0, "y": 0, "width": width, "height": height}
                    name_of = f"{str(name).replace('/', '.')}.{kind}.png"
                    page.screenshot(path=given.out / name_of, full_page=True, clip=part)
                page.close()
        faults += searched(browser.new_page(), f"http://127.0.0.1:{server.server_port}", WORD)
        browser.close()
    print("\n".join(faults))
    print(f"{len(pages)} pages at {len(WIDTHS)} widths, {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
