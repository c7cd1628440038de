"""The evidence report as a reader finds it."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser would find: tags that are closed in order, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside = [m for m in re.findall(r"(?:src|href|url\()=?[\"']?([^\"'>)]+)", text)
                        if not m.startswith("#")]  # fmt: skip
        self.pictures = re.findall(r"<svg.*?</svg>", text, flags=re.S)
        self.text = ""
        self.headings: list[str] = []
        """of the releases that have pictures: versions and decision"""
        self.reasons: list[str] = []
        """below these headings"""
        self._into: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "h2":
            self._into = self.headings
        elif ("class", "why") in attrs:
            self._into = self.reasons
        else:
            return
        self._into.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "p"):
            self._into = []

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._into:
            self._into[-1] += data

    def contradictory_intervals(self) -> list[str]:
        """Those that end before they begin, as "+7.50% to +5.00%" does."""
        text = self.text.replace("−", "-")
        found = re.finditer(r"([-+]?[\d.]+) ?(?:%|ms|×)? to ([-+]?[\d.]+) ?(?:%|ms|×)", text)
        return [each[0] for each in found if float(each[1]) > float(each[2])]
