"""Requests for stored answers of every kind that draws otherwise, by what is special in them."""

from typing import Any

PET = {
    "type": "object",
    "properties": {
        "sort": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "name": {"type": "string", "maxLength": 5},
    },
    "required": ["sort", "age", "name"],
    "additionalProperties": False,
}
TEXT_FORMAT = {"type": "json_schema", "name": "pet", "schema": PET, "strict": True}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "name": "weather", "parameters": CITY}]
LOGPROBS = "message.output_text.logprobs"
PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.4, "repetition_penalty": 1.2}
DRAWN: dict[str, Any] = {"temperature": 1.0, "seed": 3}

OF_RESPONSES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": DRAWN,
    "narrowed": DRAWN | {"top_p": 0.8, "top_k": 40, "min_p": 0.01},
    "penalties": DRAWN | PENALTIES,
    "repeating": {"temperature": 0.0, "repetition_penalty": 0.8},  # what drafts are made of
    "schema": DRAWN | {"text": {"format": TEXT_FORMAT}},
    "pattern": DRAWN | {"guided_regex": "[a-f]{40,60}"},
    "allowed": DRAWN | {"allowed_token_ids": list(range(97, 123))},
    "min_tokens": DRAWN | {"min_tokens": 30, "stop_token_ids": list(range(97, 110))},
    "call": DRAWN | {"tools": TOOLS, "tool_choice": "required"},
    "cut": DRAWN | {"max_output_tokens": 5},
    "logprobs": DRAWN | {"include": [LOGPROBS], "top_logprobs": 2},
}
OF_CHATS: dict[str, dict[str, Any]] = {
    "biased": DRAWN | {"logit_bias": {"97": 5.0, "98": -100.0}},
    "stop": DRAWN | {"stop": ["e", "a"]},
    "stop, shown": DRAWN | {"stop": ["e", "a"], "include_stop_str_in_output": True},
    "one token": DRAWN | {"max_tokens": 1},
}


def response_body(model: str = "demo", said: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": model, "input": said, "max_output_tokens": 70} | fields


def chat_body(model: str = "demo", said: str = "hi", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": said}]
    return {"model": model, "messages": messages, "store": True, "max_tokens": 70} | fields
