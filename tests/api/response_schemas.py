"""The Open Responses specification as validators, by the types generated from it."""

from typing import Any

from openresponses_types import types
from pydantic import BaseModel

EVENTS: dict[str, type[BaseModel]] = {
    "response.created": types.ResponseCreatedStreamingEvent,
    "response.in_progress": types.ResponseInProgressStreamingEvent,
    "response.output_item.added": types.ResponseOutputItemAddedStreamingEvent,
    "response.content_part.added": types.ResponseContentPartAddedStreamingEvent,
    "response.output_text.delta": types.ResponseOutputTextDeltaStreamingEvent,
    "response.output_text.done": types.ResponseOutputTextDoneStreamingEvent,
    "response.content_part.done": types.ResponseContentPartDoneStreamingEvent,
    "response.output_item.done": types.ResponseOutputItemDoneStreamingEvent,
    "response.function_call_arguments.delta": (
        types.ResponseFunctionCallArgumentsDeltaStreamingEvent
    ),
    "response.function_call_arguments.done": types.ResponseFunctionCallArgumentsDoneStreamingEvent,
    "response.completed": types.ResponseCompletedStreamingEvent,
    "response.incomplete": types.ResponseIncompleteStreamingEvent,
    "response.failed": types.ResponseFailedStreamingEvent,
    "error": types.ErrorStreamingEvent,
}


def check_event(event: dict[str, Any]) -> None:
    """Raises for an event that the specification does not know or has otherwise."""
    EVENTS[event["type"]].model_validate(event)


def check_response(response: dict[str, Any]) -> None:
    types.ResponseResource.model_validate(response)
