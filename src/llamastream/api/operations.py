"""What the OpenAPI document says of each route that is not told by its body's model."""

from typing import Any

from llamastream.api.conversations import NewConversation, NewItems
from llamastream.api.http.openapi import Operation
from llamastream.api.http.query import INCLUDE, PAGE_OPTIONS, RETRIEVE_OPTIONS, SEARCH_OPTIONS
from llamastream.api.presets import NewPreset
from llamastream.api.prompts import DetokenizeBody, TemplateBody, TokenizeBody
from llamastream.api.wire import shapes
from llamastream.api.wire.anthropic.request import MessagesBody, PromptBody
from llamastream.api.wire.chat import ChatCompletionBody
from llamastream.api.wire.compaction import CompactBody
from llamastream.api.wire.completions import CompletionBody
from llamastream.api.wire.options import ChangedMetadata
from llamastream.api.wire.responses import ResponseBody
from llamastream.records import MAX_KEY_CHARS

IDEMPOTENT = {"Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS}}
PAGE_WITH_INCLUDE = PAGE_OPTIONS | INCLUDE


def _generates(summary: str, body: Any, answer: Any) -> Operation:
    return Operation(summary, answer, body=body, streams=True, errors=(404,), headers=IDEMPOTENT)


CREATE_CHAT = _generates("Answer a chat.", ChatCompletionBody, shapes.ChatCompletion)
CREATE_COMPLETION = _generates("Continue a text.", CompletionBody, shapes.Completion)
CREATE_MESSAGE = Operation(
    "Answer a chat, in Anthropic's way.",
    shapes.AnthropicMessage,
    body=MessagesBody,
    streams=True,
    errors=(404, 529),
    error=shapes.AnthropicError,
)
COUNT_MESSAGE = Operation(
    "How long a message's prompt is.",
    shapes.CountedTokens,
    body=PromptBody,
    errors=(404, 529),
    error=shapes.AnthropicError,
)
CREATE_RESPONSE = _generates("Answer, and keep the answer.", ResponseBody, shapes.Response)

COMPACT_RESPONSE = Operation(
    "Sum a conversation up in one item.", shapes.Compaction, body=CompactBody, errors=(404,)
)
COUNT_INPUT = Operation(
    "How long a response's prompt is.", shapes.InputTokens, body=ResponseBody, errors=(404,)
)
RETRIEVE_RESPONSE = Operation(
    "A response, or its events.", shapes.Response, query=RETRIEVE_OPTIONS, streams=True
)
CANCEL_RESPONSE = Operation("End a response.", shapes.Response)
LIST_INPUT = Operation("What a response answers.", shapes.ItemList, query=PAGE_WITH_INCLUDE)
DELETE_STORED = Operation("Delete what is stored of an answer.", shapes.Deleted)

RECEIPT = Operation("What a stored answer was drawn from.", shapes.Receipt)
VERIFY = Operation("Draw a stored answer again, and compare.", shapes.Verification, errors=(422,))

LIST_CHATS = Operation(
    "Stored chats that have ended; also `metadata[name]=value`.",
    shapes.ChatCompletionList,
    query={**PAGE_WITH_INCLUDE, "model": {"type": "string"}},
    errors=(404,),
)
RETRIEVE_CHAT = Operation(
    "A stored chat, or its chunks.", shapes.ChatCompletion, query=RETRIEVE_OPTIONS, streams=True
)
UPDATE_CHAT = Operation(
    "Change a stored chat's metadata.", shapes.ChatCompletion, body=ChangedMetadata
)
LIST_MESSAGES = Operation(
    "What a stored chat answers.", shapes.ChatMessageList, query=PAGE_WITH_INCLUDE
)

CREATE_CONVERSATION = Operation("Begin a conversation.", shapes.Conversation, body=NewConversation)
LIST_CONVERSATIONS = Operation(
    "All conversations.", shapes.ConversationList, query=PAGE_OPTIONS, errors=(404,)
)
SEARCH_CONVERSATIONS = Operation(
    "Those with words in their titles or texts.", shapes.FoundList, query=SEARCH_OPTIONS
)
RETRIEVE_CONVERSATION = Operation("A conversation.", shapes.Conversation)
UPDATE_CONVERSATION = Operation("Change its metadata.", shapes.Conversation, body=ChangedMetadata)
DELETE_CONVERSATION = Operation("Delete it with its items.", shapes.Deleted)
ADD_ITEMS = Operation("Add messages.", shapes.ItemList, body=NewItems, query=INCLUDE)
LIST_ITEMS = Operation("What was said.", shapes.ItemList, query=PAGE_WITH_INCLUDE)
RETRIEVE_ITEM = Operation("One message.", shapes.ItemMessage, query=INCLUDE)
DELETE_ITEM = Operation("Delete one message.", shapes.Conversation)

SAVE_PRESET = Operation("Keep options of responses under a name.", shapes.Preset, body=NewPreset)
LIST_PRESETS = Operation("All presets.", shapes.PresetList, query=PAGE_OPTIONS, errors=(404,))
RETRIEVE_PRESET = Operation("A preset.", shapes.Preset)
DELETE_PRESET = Operation("Delete it.", shapes.Deleted)

MODELS = Operation("The model that is served.", shapes.Models)
MODEL = Operation("The same, by its name.", shapes.Model)
TOKENIZER_INFO = Operation("What a prompt is made by.", shapes.TokenizerInfo)
TOKENIZE = Operation("A prompt's tokens.", shapes.Tokens, body=TokenizeBody, errors=(404,))
DETOKENIZE = Operation("The text of tokens.", shapes.Text, body=DetokenizeBody, errors=(404,))
APPLY_TEMPLATE = Operation("A chat's prompt.", shapes.Prompt, body=TemplateBody, errors=(404,))
HEALTH = Operation("200 when requests are taken.", shapes.Health, is_open=True, error=shapes.Health)
METRICS = Operation("For Prometheus.", "text/plain")
VERSION = Operation("Of llamastream.", shapes.Version)
