"""A web crawler: pages are fetched as they are found, a hundred at once in one process.

Run: python web_crawler.py http://localhost:8000/
"""

import asyncio
import re
import sys
import urllib.parse
import urllib.request

import rostral


@rostral.remote
class Fetcher:
    """Waits for many pages at once; their links are all that it returns."""

    async def links(self, url):
        """The links of a page; nothing for one that cannot be had."""
        try:
            page = await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
            text = await asyncio.to_thread(page.read)
        except OSError:
            return []
        found = re.findall(r'href="([^"#]+)', text.decode("utf-8", "replace"))
        return [urllib.parse.urljoin(url, link) for link in found]


def crawl(start, pages_max=200):
    """Every page of the start's site that links lead to."""
    fetchers = [Fetcher.options(max_concurrency=100).remote() for _ in range(2)]
    seen, running = {start}, {fetchers[0].links.remote(start)}
    while running:
        (done,), rest = rostral.wait(list(running))
        running = set(rest)
        for link in rostral.get(done):
            is_new = link not in seen and len(seen) < pages_max
            if is_new and urllib.parse.urlsplit(link).netloc == urllib.parse.urlsplit(start).netloc:
                seen.add(link)
                running.add(fetchers[len(seen) % 2].links.remote(link))
    return seen


def main():
    """Crawls the site of the page that was named."""
    start = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/"
    with rostral.init():
        print(f"{len(crawl(start))} pages found from {start}")


if __name__ == "__main__":
    main()
