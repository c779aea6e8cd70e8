"""Text of models and users is text: nothing of it runs, loads or breaks the page's shape."""

import re

import pytest
from playwright.async_api import expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.page.conftest import OpenPage, Serve
from tests.page.test_chat_page import answers, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

ATTEMPTS = """\
<img src=x onerror="console.log('ran')">

<script>console.log('ran')</script>

[a](javascript:console.log('ran')) [b](JaVaScRiPt:alert(1))
[c](data:text/html,<script>alert(1)</script>)
[d](vbscript:alert(1)) [e]( javascript:alert(1)) [f](java&#115;cript:alert(1)) [g](//evil.example/)

![image](https://evil.example/pixel.png) <svg onload="console.log('ran')"></svg>

<iframe src="javascript:alert(1)"></iframe> <a href="javascript:alert(1)">h</a>

`<b>code</b>` **<i onmouseover=alert(1)>bold</i>** <style>body { display: none }</style>

| <img src=x onerror=alert(1)> | b |
|---|---|
| <script>alert(1)</script> | d |

```html"><script>alert(1)</script>
<script>alert(1)</script>
```

[good](https://example.org/?a=1&b=2) <https://example.org/auto>
"""


async def test_nothing_in_a_text_runs(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(says(ATTEMPTS), manual=True)
    page = await open_page(await serve(engine))
    await send(page, ATTEMPTS)
    for _ in range(0, len(ATTEMPTS), 50):  # also while it is half written
        engine.allow(50)
    await expect(answers(page)).to_contain_text("https://example.org/auto")
    await expect(page.get_by_label("Stop")).to_be_hidden()
    article = page.locator("article")
    forbidden = "img, script, iframe, style, svg svg, i, b, object, embed, form, base, [onerror]"
    await expect(article.locator(forbidden)).to_have_count(0)
    links = await article.locator("a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    assert links == [
        "https://evil.example/pixel.png",  # an image is a link, which nobody has followed
        "https://example.org/?a=1&b=2",
        "https://example.org/auto",
    ]
    rel = await article.locator("a").first.get_attribute("rel")
    assert rel == "noopener noreferrer nofollow"
    await expect(page.locator("article.user .said")).to_have_text(ATTEMPTS.strip())
    await page.reload()
    await expect(answers(page)).to_contain_text("<script>console.log('ran')</script>")
    await expect(article.locator(forbidden)).to_have_count(0)


MARKDOWN = """\
# Title &amp; more

Some **bold**, *thin*, ~~gone~~ and `code`, a [link](https://example.org).
Next line.[^1] And [^0-9].

1. one
   - nested
2. two

- [x] done

> quoted

```python
print("hi")
```

| a | b |
|:--|--:|
| 1 | 2 |

[^1]: A note.
"""


MORE = """\
$a_1$ and \\(b\\), but $5 and $6

$$
\\frac{1}{2}
$$

```python
def f(): return "x"
```

```unknown
def f(): return "x"
```
"""


async def test_formulas_and_code_are_drawn_when_they_are_there(
    serve: Serve, open_page: OpenPage
) -> None:
    page = await open_page(await serve(FakeEngine(says(MORE))))
    files: list[str] = []
    page.on("request", lambda request: files.append(request.url.rpartition("/")[2]))
    await expect(page.get_by_text("Ask anything.")).to_be_visible()
    assert not any("katex" in name or "colours" in name for name in files)
    await send(page, "show me")
    body = answers(page)
    await expect(body.locator(".katex")).to_have_count(3)
    await expect(body.locator(".katex-display")).to_have_count(1)
    await expect(body.locator("p").first).to_contain_text("but $5 and $6")
    await expect(body.locator("pre .hljs-keyword")).to_have_text(["def", "return"])
    await expect(body.locator("pre code").last).to_have_text('def f(): return "x"')
    assert await body.locator(".katex").first.evaluate("e => getComputedStyle(e).fontFamily")
    assert any(name.startswith("KaTeX_Math-Italic") for name in files)


async def test_markdown_becomes_elements(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(says(MARKDOWN))))
    await send(page, "show me")
    body = answers(page)
    await expect(body.locator("h3")).to_have_text("Title & more")
    for name, text in {
        "strong": "bold",
        "em": "thin",
        "del": "gone",
        "p > code": "code",
        "ol > li > ul > li": "nested",
        "blockquote": "quoted",
        "pre code": 'print("hi")',
        "th.right": "b",
        "td.left": "1",
    }.items():
        await expect(body.locator(name)).to_have_text(text)
    await expect(body.locator("ul > li").last).to_have_text("☑ done")
    await expect(body.locator(".code-head")).to_have_text("python")
    await expect(body.locator("p:has(sup)")).to_have_text([re.compile("line.1 And"), "1 A note."])
    await expect(body.locator("p").first).to_contain_text("And [^0-9].")
    mark = "e => getComputedStyle(e, '::after').content"
    assert "\u2197" in await body.get_by_role("link").evaluate(mark)  # it leads away


WIDE = f"""{"wide" * 60}

```
{"x" * 300}
```

| {" | ".join("column" for _ in range(12))} |
|{"---|" * 12}
| {" | ".join("value" for _ in range(12))} |

https://example.org/{"path/" * 40}
"""


@pytest.mark.parametrize("width", [360, 2200])
async def test_nothing_is_wider_than_the_screen(
    serve: Serve, open_page: OpenPage, width: int
) -> None:
    page = await open_page(
        await serve(FakeEngine(says(WIDE))), viewport={"width": width, "height": 640}
    )
    await send(page, WIDE)
    await expect(page.get_by_label("Send", exact=True)).to_be_visible()
    await expect(answers(page).locator("td")).to_have_count(12)
    for selector in ("html", "#scroller", "main > header", "main > footer"):
        sizes = "element => [element.scrollWidth, element.clientWidth]"
        scrolled, visible = await page.locator(selector).evaluate(sizes)
        assert scrolled <= visible <= width, selector
    for name in ("Send", "Settings"):
        box = await page.get_by_role("button", name=name).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


async def test_the_view_follows_until_the_reader_scrolls_up(
    serve: Serve, open_page: OpenPage
) -> None:
    lines = "".join(f"line {k}\n\n" for k in range(200))
    engine = FakeEngine(says(lines), manual=True)
    page = await open_page(await serve(engine))
    await send(page, "go")
    engine.allow(lines.index("line 50"))
    await expect(answers(page).get_by_text("line 49")).to_be_in_viewport()
    await page.mouse.move(500, 300)
    await page.mouse.wheel(0, -400)
    await expect(page.get_by_label("To the latest")).to_be_visible()
    top = await page.locator("#scroller").evaluate("element => element.scrollTop")
    engine.allow(1000)
    await expect(answers(page).get_by_text("line 100")).to_be_attached()
    assert await page.locator("#scroller").evaluate("element => element.scrollTop") == top
    await page.get_by_label("To the latest").click()
    engine.allow(10_000)
    await expect(answers(page).get_by_text("line 199")).to_be_in_viewport()
    await expect(page.get_by_label("To the latest")).to_be_hidden()
