// Colours for code. Loaded when the first block of code is whole.

import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import kotlin from "highlight.js/lib/languages/kotlin";
import lua from "highlight.js/lib/languages/lua";
import makefile from "highlight.js/lib/languages/makefile";
import markdown from "highlight.js/lib/languages/markdown";
import php from "highlight.js/lib/languages/php";
import python from "highlight.js/lib/languages/python";
import r from "highlight.js/lib/languages/r";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import swift from "highlight.js/lib/languages/swift";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { createLowlight } from "lowlight";
import { el } from "./dom.ts";

const lowlight = createLowlight({
  ...{ bash, c, cpp, csharp, css, diff, dockerfile, go, ini, java, javascript, json, kotlin, lua },
  ...{ makefile, markdown, php, python, r, ruby, rust, sql, swift, typescript, xml, yaml },
});

type Hast = ReturnType<typeof lowlight.highlight>["children"][number];

const MAX_DEPTH = 20;

/** `text` as elements. Raises an error for what is nested too deep, or in no known language. */
export function coloured(text: string, language: string): (Node | string)[] {
  return lowlight.highlight(language.toLowerCase(), text).children.map((node) => toNode(node, 0));
}

function toNode(node: Hast, depth: number): Node | string {
  if (depth > MAX_DEPTH) throw new RangeError("nested too deep");
  if (node.type === "text") return node.value;
  if (node.type !== "element") return "";
  const names = node.properties["className"] as string[];
  return el("span", { class: names.join(" ") }, ...node.children.map((child) => toNode(child, depth + 1)));
}
