// From the settings as they were typed to the body of a request.

export interface Settings {
  instructions: string;
  temperature: string;
  maxTokens: string;
  seed: string;
  topP: string;
  topK: string;
  minP: string;
  repetitionPenalty: string;
  presencePenalty: string;
  frequencyPenalty: string;
  schema: string;
  dropOldest: boolean;
}

export const DEFAULTS: Settings = {
  instructions: "",
  temperature: "",
  maxTokens: "",
  seed: "",
  topP: "",
  topK: "",
  minP: "",
  repetitionPenalty: "",
  presencePenalty: "",
  frequencyPenalty: "",
  schema: "",
  dropOldest: false,
};

/** Options of a request as JSON has them, by the server's names. */
export type Options = Record<string, unknown>;

const REAL = /^-?\d+(\.\d+)?(e[-+]?\d+)?$/i;
const WHOLE = /^-?\d+$/;
type Typed = Exclude<keyof Settings, "dropOldest">;
const NUMBERS: [setting: Typed, option: string, form: RegExp][] = [
  ["temperature", "temperature", REAL],
  ["maxTokens", "max_output_tokens", WHOLE],
  ["seed", "seed", WHOLE],
  ["topP", "top_p", REAL],
  ["topK", "top_k", WHOLE],
  ["minP", "min_p", REAL],
  ["repetitionPenalty", "repetition_penalty", REAL],
  ["presencePenalty", "presence_penalty", REAL],
  ["frequencyPenalty", "frequency_penalty", REAL],
];

/** A setting that is not even a number; `param` is the server's name for it. */
export class SettingError extends Error {
  constructor(
    readonly setting: keyof Settings,
    readonly param: string,
    message: string,
  ) {
    super(message);
  }
}

/** JSON, but for how the answer is delivered. Limits are the server's to check. */
export function requestBody(
  settings: Settings,
  model: string,
  conversation: { id: string; after?: string },
  input: string | null,
): string {
  const fields: Record<string, string> = {
    model: JSON.stringify(model),
    conversation: JSON.stringify(conversation),
    store: "true",
    background: "true", // leaving the page is not stopping
  };
  if (input !== null) fields["input"] = JSON.stringify(input);
  return toObject({ ...fields, ...optionFields(settings) });
}

/** JSON of the options that the settings are. Raises SettingError. */
export function toOptions(settings: Settings): string {
  return toObject(optionFields(settings));
}

/** The settings that options are, and the names of those that this page has no setting for. */
export function fromOptions(options: Options): { settings: Settings; others: string[] } {
  const { instructions, truncation, text, ...rest } = options;
  const settings = { ...DEFAULTS };
  if (typeof instructions === "string") settings.instructions = instructions;
  settings.dropOldest = truncation === "auto";
  for (const [setting, option] of NUMBERS) {
    const value = rest[option];
    delete rest[option];
    if (value != null) settings[setting] = JSON.stringify(value);
  }
  const { format } = (text ?? {}) as { format?: { type: string; schema: unknown } };
  const isSchema = format?.type === "json_schema";
  if (isSchema) settings.schema = JSON.stringify(format.schema, null, 1);
  const others = Object.keys(rest);
  return { settings, others: text === undefined || isSchema ? others : [...others, "text"] };
}

function optionFields(settings: Settings): Record<string, string> {
  const fields: Record<string, string> = {};
  const instructions = settings.instructions.trim();
  if (instructions) fields["instructions"] = JSON.stringify(instructions);
  if (settings.dropOldest) fields["truncation"] = '"auto"';
  for (const [setting, option, form] of NUMBERS) {
    const typed = settings[setting];
    if (typed.trim()) fields[option] = numberOf(setting, option, typed, form);
  }
  addSchema(fields, settings.schema);
  return fields;
}

function toObject(fields: Record<string, string>): string {
  const pairs = Object.entries(fields).map(([name, value]) => `${JSON.stringify(name)}:${value}`);
  return `{${pairs.join(",")}}`;
}

/** The same request for an answer that is streamed, or for the response as it is by now. */
export function delivered(body: string, { stream }: { stream: boolean }): string {
  return `${body.slice(0, -1)},"stream":${stream}}`;
}

/** The first words of a message. */
export function titleOf(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= 48) return line;
  const cut = line.slice(0, 48);
  const space = cut.lastIndexOf(" ");
  return `${(space > 24 ? cut.slice(0, space) : cut).trimEnd()}…`;
}

// As it was typed, for numbers may be larger than JavaScript's.
function addSchema(fields: Record<string, string>, typed: string): void {
  const schema = typed.trim();
  if (!schema) return;
  try {
    JSON.parse(schema);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SettingError("schema", "text.format", `The schema must be JSON: ${reason}.`);
  }
  const name = '"type":"json_schema","name":"answer","strict":true';
  fields["text"] = `{"format":{${name},"schema":${schema}}}`;
}

// Digits go out as they were typed: a seed may be larger than a number can be in JavaScript.
function numberOf(setting: keyof Settings, option: string, typed: string, form: RegExp): string {
  const text = typed.trim();
  if (form.test(text)) return text.replace(/^(-?)0+(?=\d)/, "$1");
  throw new SettingError(setting, option, `${option} must be a number. Given: ${text}.`);
}
