"""The files of the web page: what is sent with them, and what they do not do."""

import re

import pytest

from evaluation.pages import FETCHING, Page
from infini_attention.server.web import FOLDER

FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def index():
    return Page((FOLDER / "index.html").read_text())


def test_all_is_sent_with_a_strict_policy(client):
    for path in ("/", *(f"/page/{file.name}" for file in FILES)):
        answer = client.get(path)
        assert answer.status_code == 200, path
        policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    docs = client.get("/docs").headers["Content-Security-Policy"]
    assert "script-src 'self';" in docs
    assert "connect-src 'self';" in docs
    assert client.get("/page/main.js").headers["Content-Type"].startswith(("text/javascript", "application/javascript"))


def test_what_there_is_not_is_refused_as_elsewhere(client):
    for method, path in (("get", "/page/none.js"), ("get", "/page/../app.py"), ("get", "/none"), ("post", "/v1/none")):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url"), path


def test_nothing_comes_from_elsewhere(index):
    for file in FILES:
        text = re.sub(r' xmlns="[^"]*"', "", file.read_text())
        assert "//" not in re.sub(r"^\s*//.*|; //.*", "", text, flags=re.MULTILINE), file.name
        assert "@import" not in text
        assert "url(" not in text
    for tag, attributes in index.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in FETCHING & attributes.keys():
            assert re.match(r"page/[\w.]+$|#\w+$|docs$", attributes[name]), (tag, attributes)


def test_text_never_becomes_markup():
    code = "".join(file.read_text() for file in FILES if file.suffix == ".js")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser", code)
    assert "localStorage" not in code


def test_everything_that_can_be_filled_in_has_a_name(index):
    labelled = {attributes["for"] for tag, attributes in index.elements if tag == "label" and "for" in attributes}
    for tag, attributes in index.elements:
        if tag in {"input", "textarea", "select"} and attributes.get("id") not in labelled:
            assert inside_a_label(attributes), attributes


def inside_a_label(attributes):
    name = attributes.get("name") or attributes["id"]
    field = rf'<label[^<>]*>(?:(?!</label>).)*(?:name|id)="{re.escape(name)}"'
    return re.search(field, (FOLDER / "index.html").read_text(), re.DOTALL)
