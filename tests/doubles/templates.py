"""Chat templates of models that reason, or call tools, as those of their families do it."""

from llamastream.tools import CallSyntax

_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% set said = m.content.split('</think>') %}"
    "{% if keeps and m.role == 'assistant' %}<think>\n{{ m.reasoning_content or "
    "(said[0].split('<think>')[-1].strip('\n') if said | length > 1 else '') }}\n</think>\n\n"
    "{% endif %}{{ said[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
# The template opens the reasoning, always, and leaves out that of earlier turns.
ALWAYS = _TURNS + "<think>\n{% endif %}"
# The model opens it, unless it is told not to; that of earlier turns is written again.
HYBRID = (
    "{% set keeps = true %}"
    + _TURNS
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)

# Of models that were trained on tools, in the manner of each family.
TURN = "<|im_start|>{{ m.role }}\n"
END = "<|im_end|>\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LISTED = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}" + END
)
LISTED += "{% endif %}"
NAME, ARGUMENTS = "{{ c.function.name }}", "{{ c.function.arguments | tojson }}"
# How one call is written.
CALLS = {
    CallSyntax.HERMES: (
        f'<tool_call>\n{{"name": "{NAME}", "arguments": {ARGUMENTS}}}\n</tool_call>'
    ),
    CallSyntax.LLAMA: f'{{"name": "{NAME}", "parameters": {ARGUMENTS}}}',
    CallSyntax.PYTHONIC: (
        f"[{NAME}({{% for k, v in c.function.arguments.items() %}}{{{{ k }}}}={{{{ v | tojson }}}}"
        "{% endfor %})]"
    ),
    CallSyntax.MISTRAL: f'[TOOL_CALLS] [{{"name": "{NAME}", "arguments": {ARGUMENTS}}}]',
}
PLAIN = "{% for m in messages %}" + TURN + "{{ m.content }}" + END + "{% endfor %}" + ASK


def with_calls(call: str, more: str = "") -> str:
    body = "{{ m.content }}{% for c in m.tool_calls or [] %}" + more + call + "{% endfor %}"
    return LISTED + "{% for m in messages %}" + TURN + body + END + "{% endfor %}" + ASK


TEMPLATES = {syntax: with_calls(call) for syntax, call in CALLS.items()}
TEMPLATES[CallSyntax.GENERIC] = PLAIN
TAGGED = with_calls(f"[TOOL_CALLS]{NAME}[ARGS]{ARGUMENTS}")

# The templates open the reasoning, or leave it to the model, and know of no tools or of all.
R1 = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' and m['content'] is not none %}"
    "<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
R1_CONTROL = ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")
QWEN3 = (
    LISTED + "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' and m.content is string %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if loop.first or loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n' }}<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% set thought, said = m.reasoning_content or '', m.content %}"
    "{% if not thought and '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if thought and loop.index0 > ns.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ said }}{% for c in m.tool_calls or [] %}"
    "{% if said or not loop.first %}{{ '\n' }}{% endif %}"
    + CALLS[CallSyntax.HERMES]
    + "{% endfor %}<|im_end|>\n"
    "{% else %}" + TURN + "{{ m.content }}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
