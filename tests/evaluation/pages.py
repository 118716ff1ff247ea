"""A page as a browser's parser sees it."""

from html.parser import HTMLParser

FETCHING = {"src", "href", "xlink:href", "srcset", "action", "poster", "data", "background"}
EMPTY = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Its elements as (tag, attributes), the text below each id, and all of its text."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.open, self.texts = source, [], [], []
        self.feed(source)
        self.close()
        assert self.open == [], "an element that is not closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in EMPTY:
            self.open.append((tag, attributes.get("id")))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((tuple(self.open), " ".join(data.split())))

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}

    @property
    def text(self):
        return " ".join(text for path, text in self.texts if ("style", None) not in path)

    def cells(self, name):
        """The texts of the cells of table `name`, in order."""
        return [text for path, text in self.texts if ("table", name) in path and path[-1][0] in {"td", "th"}]

    def assert_needs_nothing(self):
        """No script, and nothing that would be fetched from anywhere."""
        assert not self.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
            for name in FETCHING & attributes.keys():
                assert attributes[name].startswith(("#", "data:")), (tag, name, attributes[name])
        assert "://" not in self.source
        assert "@import" not in self.source
        assert self.source.count("url(") == self.source.count("url(#")
