import json

from llamastream.generation.items import new_item, parts_of, to_messages
from llamastream.generation.log import Log
from llamastream.types import Message, Reasoning, Refusal, ToolCall, ToolResult

PARTS = (
    Reasoning("the user wants the weather"),
    "I look.",
    ToolCall("call_1", "weather", '{"city": "Oslo"}'),
    ToolResult("call_1", "-3"),
    Refusal("No."),
    " Cold.",
)


def test_parts_of_every_kind_come_back_from_the_database_as_they_were() -> None:
    item = new_item("assistant", PARTS)
    stored = item._replace(body=json.loads(json.dumps(item.body)))
    assert parts_of(stored) == PARTS
    assert to_messages([stored]) == (Message("assistant", PARTS),)


def test_item_of_text_is_stored_as_before_and_read_as_a_message_of_text() -> None:
    item = new_item("user", ["a", "b"])
    assert item.body == {"role": "user", "parts": ["a", "b"], "status": "completed"}
    assert to_messages([item]) == (Message("user", "ab"),)


def test_text_of_a_message_is_what_a_template_writes() -> None:
    assert Message("assistant", PARTS).text == "I look. Cold."
    assert Message("user", "hi").parts == ("hi",)


def test_log_keeps_parts_of_every_kind_in_order() -> None:
    log = Log()
    for number, part in enumerate(PARTS):
        if isinstance(part, str):
            log.append(0, part, number)
        else:
            log.append(0, "", number, parts=(part,))
    said = [delta.parts or (delta.text,) for delta in log.deltas(0, len(log))]
    assert said == [(part,) for part in PARTS]
    assert [d.parts or (d.text,) for d in log.head(2).deltas(0, 2)] == said[:2]
    assert log.text() == log.joined(1)[0].text == "I look. Cold."
