// Elements, made one by one: no text ever becomes markup, and the page's policy forbids innerHTML.

type Props = Record<string, string | boolean | ((event: Event) => void) | null>;

/** An element. Functions are listeners, true is an empty attribute, false and null are left out. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (typeof value === "string") element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The element of index.html with this id. */
export function byId<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** One of the drawings in index.html. */
export function icon(name: string): SVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function iconButton(
  name: string,
  label: string,
  onClick: (button: HTMLButtonElement, event: MouseEvent) => void,
): HTMLButtonElement {
  const button = el("button", { type: "button", class: "icon", "aria-label": label, title: label });
  button.append(icon(name));
  button.addEventListener("click", (event) => onClick(button, event));
  return button;
}

/** A button that copies what `text` then is, and says so for a moment. */
export function copyButton(text: () => string, label = "Copy"): HTMLButtonElement {
  return iconButton("copy", label, async (button) => {
    const isCopied = await copy(text());
    button.replaceChildren(icon(isCopied ? "check" : "copy"));
    button.setAttribute("aria-label", isCopied ? "Copied" : "The browser does not let us copy");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", label);
    }, 1500);
  });
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https there is no such interface, but the old one.
    const area = el("textarea", { class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
