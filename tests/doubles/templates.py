"""Chat templates of models that reason, as those of their families do it."""

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
