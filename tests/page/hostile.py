"""Answers that try to run, to reach out, or to stop the page."""

RUN = "window.ran=1"
HTML = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}><animate onbegin={RUN} attributeName=x></svg>",
    f'<iframe src="javascript:{RUN}" srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f"<details open ontoggle={RUN}><summary>x</summary></details>",
    f"<a href='javascript:{RUN}'>go</a> <form action=https://evil.example><button>go</button></form>",
    "<style>@import 'https://evil.example/a.css'; body { display: none }</style>",
    "<base href=https://evil.example/> <link rel=stylesheet href=https://evil.example/a.css>",
    f"<math><mtext></mtext><mglyph><style><img src=x onerror={RUN}></style></mglyph></math>",
    f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;img src=x onerror={RUN}&#62;",
]
LINKS = [
    f"[a](javascript:{RUN}) [b](JaVaScRiPt:1)\n[c]( javascript:{RUN}) [d](java&#115;cript:{RUN})",
    f"[a](data:text/html,<script>{RUN}</script>) [b](vbscript:{RUN}) [c](blob:x) [d](file:///etc)",
    f"[a]\n\n[a]: javascript:{RUN}",
    f'[a](https://evil.example/"onmouseover="{RUN}) [b](https://evil.example "x\\" onclick={RUN}")',
    f"<javascript:{RUN}> <https://evil.example/'onclick='{RUN}> https://evil.example/<b>",
    "![beacon](https://evil.example/pixel.png) ![a](//evil.example/b) [![x](https://evil.example/c)](x)",
    "[//evil](//evil.example) [rel](./v1/conversations) [hash](#conv_1) [__proto__][__proto__]",
]
CODE = [
    f'```html"><script>{RUN}</script>\n<script>{RUN}</script>\n```',
    f"```__proto__\n{RUN}\n```\n```constructor\n{RUN}\n```\n```js on\n'</code><script>'\n```",
    f"`</code><img src=x onerror={RUN}>` ``<script>{RUN}</script>``",
    "```js\n" + "`${" * 2_000 + "\n```",
]
MATHS = [
    f"$\\href{{javascript:{RUN}}}{{x}}$ $\\url{{javascript:{RUN}}}$",
    "$\\includegraphics{https://evil.example/a.png}$",
    f"$\\htmlStyle{{position:fixed}}{{x}} \\htmlId{{send}}{{x}} \\htmlData{{onclick={RUN}}}{{x}}$",
    "$$\\def\\a{\\a\\a}\\a$$ and $\\rule{9999em}{9999em}$ and $\\kern{9999em}x$",
    "$" + "{" * 900 + "x" + "}" * 900 + "$ and $" + "\\sqrt{" * 300 + "x" + "}" * 300 + "$",
    f"$<img src=x onerror={RUN}>$ $$\\text{{<script>{RUN}</script>}}$$",
]
DEEP = [
    ">" * 5_000 + " deep",
    "- " * 5_000 + "deep",
    "*_" * 5_000 + "deep" + "_*" * 5_000,
    "[" * 5_000 + "deep" + "](https://evil.example)" * 5_000,
]
LONG = ["deep " + "x" * 200_000, "__a*" * 10_000]
TABLES = [
    f"| <img src=x onerror={RUN}> | b |\n|---|---|\n| <script>{RUN}</script> | " + "|" * 3_000
]

ANSWERS = [*HTML, *LINKS, *CODE, *MATHS, *DEEP, *LONG, *TABLES]
