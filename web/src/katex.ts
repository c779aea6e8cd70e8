// KaTeX with its fonts. Loaded when the first formula is shown.

import katex from "katex";
import "katex/dist/katex.min.css";

const MAX_CHARS = 2_000; // what a person would read; KaTeX recurses over what is nested

export function draw(source: string, place: HTMLElement, isDisplay: boolean): void {
  if (source.length > MAX_CHARS) return;
  try {
    katex.render(source, place, {
      displayMode: isDisplay,
      throwOnError: true,
      trust: false, // no links, images and styles out of a text
      strict: false,
      maxExpand: 200,
      maxSize: 20, // em
    });
  } catch {
    place.textContent = source;
  }
}
