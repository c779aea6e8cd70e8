// Mathematics: the text of a formula, until KaTeX has come and drawn it.

import { el } from "./dom.ts";

type Draw = (source: string, place: HTMLElement, isDisplay: boolean) => void;
let draw: Draw | null = null;

/** An element for TeX. One that is not TeX stays as it was written. */
export function formula(source: string, isDisplay: boolean): HTMLElement {
  const place = el("span", { class: isDisplay ? "math display" : "math", dir: "ltr" }, source);
  if (draw) draw(source, place, isDisplay);
  else {
    import("./katex.ts").then(
      (module) => {
        draw = module.draw;
        draw(source, place, isDisplay);
      },
      () => {}, // it is readable without
    );
  }
  return place;
}
