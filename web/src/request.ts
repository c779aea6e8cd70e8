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

const REAL = /^-?\d+(\.\d+)?$/;
const WHOLE = /^-?\d+$/;

/** A setting that is not even a number; `param` is the server's name for it. */
export class SettingError extends Error {
  constructor(
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
  const instructions = settings.instructions.trim();
  if (instructions) fields["instructions"] = JSON.stringify(instructions);
  if (settings.dropOldest) fields["truncation"] = '"auto"';
  addNumber(fields, "temperature", settings.temperature, REAL);
  addNumber(fields, "max_output_tokens", settings.maxTokens, WHOLE);
  addNumber(fields, "seed", settings.seed, WHOLE);
  addNumber(fields, "top_p", settings.topP, REAL);
  addNumber(fields, "top_k", settings.topK, WHOLE);
  addNumber(fields, "min_p", settings.minP, REAL);
  addNumber(fields, "repetition_penalty", settings.repetitionPenalty, REAL);
  addNumber(fields, "presence_penalty", settings.presencePenalty, REAL);
  addNumber(fields, "frequency_penalty", settings.frequencyPenalty, REAL);
  addSchema(fields, settings.schema);
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
    throw new SettingError("text.format", `The schema must be JSON: ${reason}.`);
  }
  const name = '"type":"json_schema","name":"answer","strict":true';
  fields["text"] = `{"format":{${name},"schema":${schema}}}`;
}

// Digits go out as they were typed: a seed may be larger than a number can be in JavaScript.
function addNumber(
  fields: Record<string, string>,
  name: string,
  typed: string,
  form: RegExp,
): void {
  const text = typed.trim();
  if (!text) return;
  if (!form.test(text)) throw new SettingError(name, `${name} must be a number. Given: ${text}.`);
  fields[name] = text.replace(/^(-?)0+(?=\d)/, "$1");
}
