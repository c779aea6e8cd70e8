// Settings under a name, kept in this browser, and as files to take elsewhere.

import { byId, el } from "./dom.ts";
import { FileError, save } from "./files.ts";
import { DEFAULTS, type Settings } from "./request.ts";
import { storage } from "./storage.ts";

export type Presets = Record<string, Settings>;

const FORMAT = "llamastream presets 1";

export class PresetChoice {
  private readonly choice = byId<HTMLSelectElement>("preset");
  private readonly name = byId<HTMLInputElement>("preset-name");
  private readonly error = byId("preset-error");

  /** `settings` tells what is set now, `use` sets it. */
  constructor(
    private readonly settings: () => Settings,
    use: (settings: Settings) => void,
  ) {
    this.choice.addEventListener("input", () => {
      const chosen = storage.presets()[this.choice.value];
      if (chosen) use(chosen);
      this.show();
    });
    byId("preset-save").addEventListener("click", ({ detail }) => detail < 2 && this.keep());
    this.name.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault(); // of the dialog's form
      this.keep();
    });
    byId("preset-delete").addEventListener("click", () => this.remove());
    byId("preset-export").addEventListener("click", () => {
      save("presets.json", "application/json", toFile(storage.presets()));
    });
    const file = byId<HTMLInputElement>("preset-file");
    byId("preset-import").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      const given = file.files?.[0];
      if (given) void this.takeIn(given);
      file.value = "";
    });
  }

  /** Show what there is to choose, and which of it is set now, if any. */
  show(): void {
    const presets = storage.presets();
    const names = Object.keys(presets).sort((a, b) => a.localeCompare(b));
    const now = JSON.stringify(this.settings());
    const current = names.find((name) => JSON.stringify({ ...DEFAULTS, ...presets[name] }) === now);
    const options = names.map((name) => el("option", { value: name }, name));
    this.choice.replaceChildren(el("option", { value: "" }, "None"), ...options);
    this.choice.value = current ?? "";
    byId("preset-choice").hidden = byId("preset-export").hidden = names.length === 0;
    byId("preset-delete").hidden = current === undefined;
  }

  private keep(): void {
    const name = this.name.value.trim();
    this.say(name ? "" : "A preset needs a name.");
    if (!name) return this.name.focus();
    storage.setPresets({ ...storage.presets(), [name]: this.settings() });
    this.show();
    if (!Object.hasOwn(storage.presets(), name)) {
      return this.say("This browser does not let the page keep anything.");
    }
    this.name.value = "";
  }

  /** Its settings and its name stay in their fields, so that it can be saved again. */
  private remove(): void {
    const { [this.choice.value]: _, ...others } = storage.presets();
    this.name.value = this.choice.value;
    storage.setPresets(others);
    this.show();
    this.choice.focus();
  }

  private async takeIn(file: File): Promise<void> {
    try {
      storage.setPresets(joined(storage.presets(), fromFile(await file.text())));
      this.say("");
    } catch (error) {
      this.say(error instanceof FileError ? error.message : String(error));
    }
    this.show();
  }

  private say(words: string): void {
    this.error.textContent = words;
    this.error.hidden = !words;
  }
}

export function toFile(presets: Presets): string {
  return JSON.stringify({ format: FORMAT, presets }, null, 1);
}

/** What `toFile` wrote. Raises FileError. */
export function fromFile(json: string): Presets {
  try {
    const file = JSON.parse(json) as { format: string; presets: Presets };
    if (file.format !== FORMAT || !Object.keys(file.presets).every((name) => name.trim())) {
      throw new TypeError();
    }
    return Object.fromEntries(
      Object.entries(file.presets).map(([name, given]) => [name.trim().slice(0, 60), checked(given)]),
    );
  } catch {
    throw new FileError("This is no file of presets: choose one that this page saved.");
  }
}

/** Both: one of a name that is taken by other settings gets a number. */
export function joined(old: Presets, added: Presets): Presets {
  const all = new Map(Object.entries(old));
  for (const [name, settings] of Object.entries(added)) {
    let free = name;
    const isTaken = () => all.has(free) && JSON.stringify(all.get(free)) !== JSON.stringify(settings);
    for (let k = 2; isTaken(); k++) free = `${name} (${k})`;
    all.set(free, settings);
  }
  return Object.fromEntries(all);
}

function checked(given: Settings): Settings {
  const settings = { ...DEFAULTS, ...given };
  for (const [name, value] of Object.entries(settings)) {
    if (!(name in DEFAULTS)) throw new TypeError();
    if (typeof value !== typeof DEFAULTS[name as keyof Settings]) throw new TypeError();
  }
  return settings;
}
