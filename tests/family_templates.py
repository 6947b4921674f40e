"""Chat templates that behave as those of current families do, written for these tests, and a tokenizer for each.

What matters of a family is kept: where a turn begins and ends, what the generation prompt opens, which turns lose
their reasoning, where tools, dates and systems go, what is refused. The words are not theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """A template, the tokens that it writes (special ones, and ones that are decoded as text), and the end token."""

    name: str
    template: str
    special: tuple[str, ...]
    end: str
    plain: tuple[str, ...] = ()
    begin: str | None = None
    variables: dict[str, object] = field(default_factory=dict)


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """Bytes, and the family's own tokens."""
    return make_tokenizer(FAMILIES[family])


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    """Bytes, marks of turns, and this template."""
    return make_tokenizer(Family("", template, IM, IM[1]))


def make_tokenizer(made: Family) -> PreTrainedTokenizerFast:
    """Bytes, and the tokens that a template writes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: place for place, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in made.special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in made.plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=made.begin,
        eos_token=made.end,
        chat_template=made.template,
        additional_special_tokens=list(made.special),
        clean_up_tokenization_spaces=False,
    )


IM = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")

# A turn of the tool stands in a turn of the user; calls are JSON between marks; the tools stand in the system turn.
_HERMES_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content ~ '\n' }}"
    "{% endif %}{{ 'Tools:' }}{% for t in tools %}{{ '\n' ~ t|tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' ~ messages[0].content ~ '<|im_end|>\n' }}"
)
_HERMES_CALLS = (
    "{% for c in m.tool_calls or [] %}{{ '\n' if not loop.first or m.content else '' }}"
    '{{ \'<tool_call>\n{"name": "\' ~ c.function.name ~ \'", "arguments": \' ~ c.function.arguments|tojson ~ \'}\n'
    "</tool_call>' }}{% endfor %}"
)
_HERMES_RESULT = (
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' ~ m.content }}"
    "{{ '\n</tool_response><|im_end|>\n' }}"
)
# The day stands in the system turn, and little else is special.
DATED = (
    "{{ '<|im_start|>system\nDay: ' ~ strftime_now('%d %b %Y') ~ '<|im_end|>\n' }}{% for m in messages %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_ASK_IM = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"

QWEN_2_5 = (
    _HERMES_TOOLS + "{% else %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' ~ (m.content or '') }}"
    + _HERMES_CALLS
    + "{{ '<|im_end|>\n' }}"
    + _HERMES_RESULT
    + "{% elif m.role != 'system' or not loop.first %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}" + _ASK_IM + "{% endif %}"
)

# Reasoning by its own key or inside the content; behind the last question a block is written, an empty one if need be,
# in the last turn; in turns before that one only where there is a reasoning, and before the question never.
_QWEN_LAST_QUERY = (
    "{% set ns = namespace(q=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.q = loop.index0 %}"
    "{% endif %}"
    "{% endfor %}"
)
_QWEN_THOUGHT = (
    "{% set c = m.content or '' %}{% set r = '' %}{% if m.reasoning_content is string %}"
    "{% set r = m.reasoning_content %}"
    "{% elif '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)


def _qwen_3(block: str, ask: str) -> str:
    return (
        _QWEN_LAST_QUERY + _HERMES_TOOLS + "{% endif %}{% for m in messages %}{% if m.role == 'assistant' %}"
        + _QWEN_THOUGHT
        + "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.q and (" + block + ") %}"
        "{{ '<think>\n' ~ r.strip('\n') ~ '\n</think>\n\n' ~ c.lstrip('\n') }}{% else %}{{ c }}{% endif %}"
        + _HERMES_CALLS.replace("m.content", "c") + "{{ '<|im_end|>\n' }}" + _HERMES_RESULT
        + "{% elif m.role != 'system' or not loop.first %}"
        "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endif %}{% endfor %}" + _ASK_IM + ask
        + "{% endif %}"
    )  # fmt: skip


QWEN_3 = _qwen_3(
    "loop.last or r",
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
QWEN_3_THINKING = _qwen_3("loop.last or r", "{{ '<think>\n' }}")
# A question opens a reasoning that no told answer has.
QWQ = (
    _HERMES_TOOLS + "{% endif %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' ~ (m.content or '').split('</think>')[-1].lstrip('\n') }}"
    + _HERMES_CALLS
    + "{{ '<|im_end|>\n' }}"
    + _HERMES_RESULT
    + "{% elif m.role != 'system' or not loop.first %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    + _ASK_IM
    + "{{ '<think>\n' }}{% endif %}"
)

# No token ends a turn: the next role does. The block of reasoning is always there, mostly empty.
GLM_4_5 = (
    "{{ '[gMASK]<sop>' }}{% if tools %}{{ '<|system|>\nTools:' }}{% for t in tools %}{{ '\n' ~ t|tojson }}"
    "{% endfor %}"
    "{% endif %}" + _QWEN_LAST_QUERY + "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '<|user|>\n' ~ m.content }}"
    "{{ '/nothink' if enable_thinking is defined and not enable_thinking else '' }}"
    "{% elif m.role == 'assistant' %}" + _QWEN_THOUGHT + "{{ '<|assistant|>' }}"
    "{{ '\n<think>' ~ (r.strip() if loop.index0 > ns.q else '') ~ '</think>' }}"
    "{{ '\n' ~ c.strip() if c.strip() else '' }}"
    "{% for x in m.tool_calls or [] %}{{ '\n<tool_call>' ~ x.function.name }}"
    "{% for k, v in x.function.arguments.items() %}"
    "{{ '\n<arg_key>' ~ k ~ '</arg_key>\n<arg_value>' ~ v ~ '</arg_value>' }}{% endfor %}{{ '\n</tool_call>' }}"
    "{% endfor %}"
    "{% elif m.role == 'tool' %}{{ '<|observation|>\n<tool_response>\n' ~ m.content ~ '\n</tool_response>' }}"
    "{% else %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{{ '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}{% endif %}"
)

# Channels: what was thought stands in a turn of its own, and in the last turn only; calls name their function in the
# header; only the last turn ends by the end token. The day stands in the system turn.
GPT_OSS = (
    "{{ '<|start|>system<|message|>Day: ' ~ strftime_now('%Y-%m-%d') ~ '<|end|>' }}"
    "{% if tools or messages[0].role == 'system' %}{{ '<|start|>developer<|message|>' }}"
    "{{ messages[0].content if messages[0].role == 'system' else '' }}"
    "{% for t in tools or [] %}{{ '\ntype ' ~ t.function.name ~ ' = ' ~ t.function.parameters|tojson }}{% endfor %}"
    "{{ '<|end|>' }}{% endif %}{% set ns = namespace(tool='') %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if '<|channel|>' in (m.content or '') %}{{ raise_exception('channels are not for content') }}{% endif %}"
    "{% if m.thinking and loop.last and not add_generation_prompt %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' ~ m.thinking ~ '<|end|>' }}{% endif %}"
    "{% if m.tool_calls %}{% if m.content and m.thinking %}{{ raise_exception('both content and thinking') }}"
    "{% endif %}"
    "{% set ns.tool = m.tool_calls[0].function.name %}{{ '<|start|>assistant to=functions.' ~ ns.tool }}"
    "{{ '<|channel|>commentary json<|message|>' ~ m.tool_calls[0].function.arguments|tojson ~ '<|call|>' }}"
    "{% else %}{{ '<|start|>assistant<|channel|>final<|message|>' ~ m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|start|>functions.' ~ ns.tool ~ ' to=assistant<|channel|>commentary<|message|>' }}"
    "{{ m.content|tojson ~ '<|end|>' }}{% elif m.role == 'user' %}"
    "{{ '<|start|>user<|message|>' ~ m.content ~ '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)

# Behind the whole conversation stands the end token, unless an answer is asked for.
PHI_3 = (
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}"
    "{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"
)
PHI_4 = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '<|im_sep|>' ~ m.content ~ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}"
    "{{ bos_token ~ '[INST] ' ~ (s if loop.first else '') ~ m.content.strip() ~ ' [/INST]' }}"
    "{% else %}{{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)
_LLAMA_3_TURN = "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ m.content|trim ~ '<|eot_id|>' }}"
_LLAMA_3_ASK = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
LLAMA_3 = "{{ bos_token }}{% for m in messages %}" + _LLAMA_3_TURN + "{% endfor %}" + _LLAMA_3_ASK
# The day in the system turn; the tools in the first question; one call a turn, as JSON; results by another role.
LLAMA_3_1 = (
    "{{ bos_token ~ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' }}"
    "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    "{% if messages[0].role == 'system' %}{{ '\n\n' ~ messages[0].content|trim }}{% set rest = messages[1:] %}"
    "{% else %}"
    "{% set rest = messages %}{% endif %}{{ '<|eot_id|>' }}{% for m in rest %}{% if m.tool_calls %}"
    "{% if m.tool_calls|length > 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"' ~ m.tool_calls[0].function.name }}"
    "{{ '\", \"parameters\": ' ~ m.tool_calls[0].function.arguments|tojson ~ '}<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' ~ m.content|tojson ~ '<|eot_id|>' }}"
    "{% elif loop.first and tools %}{{ '<|start_header_id|>user<|end_header_id|>\n\nTools:\n' }}"
    "{% for t in tools %}{{ t|tojson ~ '\n' }}{% endfor %}{{ m.content|trim ~ '<|eot_id|>' }}{% else %}"
    + _LLAMA_3_TURN + "{% endif %}{% endfor %}" + _LLAMA_3_ASK
)  # fmt: skip

_GEMMA_TURNS = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' }}"
)
_GEMMA_ASK = "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}" + _GEMMA_TURNS + "{{ m.content|trim ~ '<end_of_turn>\n' }}{% endfor %}" + _GEMMA_ASK
)
# A system turn goes into the first question; a content is text or a list of parts.
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content ~ '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    + _GEMMA_TURNS + "{{ s if loop.first else '' }}{% if m.content is string %}{{ m.content|trim }}{% else %}"
    "{% for p in m.content %}{{ p.text|trim if p.type == 'text' else '<start_of_image>' }}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}" + _GEMMA_ASK
)  # fmt: skip

# The tools stand before the last question; a call needs an id of nine signs.
MISTRAL_0_3 = (
    _QWEN_LAST_QUERY + "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.index0 == ns.q %}{{ '[AVAILABLE_TOOLS] ' ~ tools|tojson ~ '[/AVAILABLE_TOOLS]' }}"
    "{% endif %}"
    "{{ '[INST] ' ~ m.content ~ '[/INST]' }}{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}"
    "{% if c.id is not defined or c.id|length != 9 %}{{ raise_exception('ids of calls have nine signs') }}{% endif %}"
    '{{ \'{"name": "\' ~ c.function.name ~ \'", "arguments": \' ~ c.function.arguments|tojson ~ \', "id": "\' ~ c.id }}'
    "{{ '\"}' ~ (', ' if not loop.last else '') }}{% endfor %}{{ ']' ~ eos_token }}{% elif m.role == 'tool' %}"
    '{{ \'[TOOL_RESULTS] {"content": \' ~ m.content|tojson ~ \', "call_id": "\' ~ m.tool_call_id }}'
    "{{ '\"}[/TOOL_RESULTS]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' ~ m.content|trim ~ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_SMALL_3 = (
    "{{ bos_token ~ '[SYSTEM_PROMPT]' }}{% if messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% set rest = messages[1:] %}{% else %}{{ 'You help. Today is ' ~ strftime_now('%Y-%m-%d') ~ '.' }}"
    "{% set rest = messages %}{% endif %}{{ '[/SYSTEM_PROMPT]' }}{% for m in rest %}{% if m.role == 'user' %}"
    "{{ '[INST]' ~ m.content ~ '[/INST]' }}{% elif m.role == 'assistant' %}{{ m.content ~ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant may speak') }}{% endif %}{% endfor %}"
)
MAGISTRAL = (
    "{{ bos_token ~ '[SYSTEM_PROMPT]Think first.[/SYSTEM_PROMPT]' }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST]' ~ m.content ~ '[/INST]' }}{% elif m.role == 'assistant' %}"
    "{% if m.reasoning_content %}{{ '[THINK]' ~ m.reasoning_content ~ '[/THINK]' }}{% endif %}"
    "{{ m.content ~ eos_token }}"
    "{% endif %}{% endfor %}"
)

# Arguments of a call are joined to text, so they have to be text; of earlier answers only what follows a reasoning.
_DEEPSEEK_CALLS = (
    "{{ '<|tool_calls_begin|>' }}{% for c in m.tool_calls %}"
    "{{ '<|tool_call_begin|>function<|tool_sep|>' ~ c.function.name"
    " + '\n```json\n' + c.function.arguments + '\n```<|tool_call_end|>' }}{% endfor %}"
    "{{ '<|tool_calls_end|>' ~ eos_token }}"
)
_DEEPSEEK_REST = (
    "{% elif m.role == 'tool' %}{{ '<|tool_outputs_begin|>' ~ m.content ~ '<|tool_outputs_end|>' }}"
    "{% set ns.tool = true %}"
    "{% elif m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
)


def _deepseek(before: str, ask: str) -> str:
    return (
        "{{ bos_token }}{% set ns = namespace(tool=false) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '<|User|>' ~ m.content }}{% set ns.tool = false %}{% elif m.role == 'assistant' %}"
        "{% if not ns.tool %}{{ '<|Assistant|>' }}{% endif %}{% if m.tool_calls %}" + _DEEPSEEK_CALLS
        + "{% else %}{{ " + before + "m.content.split('</think>')[-1] ~ eos_token }}{% endif %}"
        "{% set ns.tool = false %}"
        + _DEEPSEEK_REST + "{% if add_generation_prompt and not ns.tool %}{{ '<|Assistant|>" + ask + "' }}{% endif %}"
    )  # fmt: skip


DEEPSEEK_V3 = _deepseek("", "")
DEEPSEEK_R1 = _deepseek("", "<think>\n")
DEEPSEEK_V3_1 = (
    "{{ bos_token }}{% if tools %}{{ 'Tools: ' ~ tools|tojson }}{% endif %}{% set ns = namespace(tool=false) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' ~ m.content }}{% set ns.tool = false %}"
    "{% elif m.role == 'assistant' %}{% if not ns.tool %}{{ '<|Assistant|></think>' }}{% endif %}"
    "{{ (m.content or '').split('</think>')[-1] }}{% if m.tool_calls %}{{ '<|tool_calls_begin|>' }}"
    "{% for c in m.tool_calls %}{{ '<|tool_call_begin|>' ~ c.function.name ~ '<|tool_sep|>' }}"
    "{{ c.function.arguments if c.function.arguments is string else c.function.arguments|tojson }}"
    "{{ '<|tool_call_end|>' }}{% endfor %}{{ '<|tool_calls_end|>' }}{% endif %}{{ eos_token }}{% set ns.tool = false %}"
    "{% elif m.role == 'tool' %}{{ '<|tool_output_begin|>' ~ m.content ~ '<|tool_output_end|>' }}"
    "{% set ns.tool = true %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.tool %}"
    "{{ '<|Assistant|>' ~ ('<think>' if thinking is defined and thinking else '</think>') }}{% endif %}"
)

COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN|>' }}"
    "{{ {'user': '<|USER|>', 'assistant': '<|CHATBOT|>'}[m.role] if m.role != 'system' else "
    "'<|SYSTEM|>' }}{{ m.content.strip() ~ '<|END_OF_TURN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN|><|CHATBOT|>' }}{% endif %}"
)
GRANITE_3 = (
    "{{ '<|start_of_role|>system<|end_of_role|>Today is ' ~ strftime_now('%B %d, %Y') ~ '.<|end_of_text|>\n' }}"
    "{% if tools %}{{ '<|start_of_role|>available_tools<|end_of_role|>' ~ tools|tojson ~ '<|end_of_text|>\n' }}"
    "{% endif %}"
    "{% for m in messages %}{{ '<|start_of_role|>' ~ m.role ~ '<|end_of_role|>' ~ (m.content or '') }}"
    "{% if m.tool_calls %}{{ '<|tool_call|>' ~ m.tool_calls|tojson }}{% endif %}{{ '<|end_of_text|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
OLMO_2 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}"
    "{{ (eos_token if m.role == 'assistant' else '') ~ ('' if loop.last and m.role == 'assistant' else '\n') }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Says which mode it is in and which day; without thinking every answer has an empty block.
SMOLLM_3 = (
    "{% set think = enable_thinking is not defined or enable_thinking %}"
    "{{ '<|im_start|>system\nDay: ' ~ strftime_now('%d %B %Y') ~ '\nMode: ' ~ ('think' if think else 'no_think') }}"
    "{{ '<|im_end|>\n' }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{{ ('' if think else '<think>\n\n</think>\n') ~ m.content.lstrip('\n') ~ '<|im_end|>\n' }}"
    "{% elif m.role == 'user' %}{{ '<|im_start|>user\n' ~ m.content ~ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    + _ASK_IM + "{{ '' if think else '<think>\n\n</think>\n' }}{% endif %}"
)  # fmt: skip
# A call is written by its id, which names the function.
KIMI_K2 = (
    "{% if tools %}{{ '<|im_system|>tool_declare<|im_middle|>' ~ tools|tojson ~ '<|im_end|>' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_assistant|>assistant<|im_middle|>' ~ (m.content or '') }}"
    "{% if m.tool_calls %}{{ '<|calls_begin|>' }}{% for c in m.tool_calls %}"
    "{{ '<|call_begin|>' ~ c.id ~ '<|call_argument|>' ~ c.function.arguments|tojson ~ '<|call_end|>' }}{% endfor %}"
    "{{ '<|calls_end|>' }}{% endif %}{{ '<|im_end|>' }}{% elif m.role == 'user' %}"
    "{{ '<|im_user|>user<|im_middle|>' ~ m.content ~ '<|im_end|>' }}{% else %}"
    "{{ '<|im_system|>' ~ m.role ~ '<|im_middle|>' ~ m.content ~ '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
SEED_OSS = (
    "{% if tools %}{{ '<seed:bos>system\nTools: ' ~ tools|tojson ~ '<seed:eos>' }}{% endif %}"
    "{% for m in messages %}{{ '<seed:bos>' ~ m.role ~ '\n' }}{% if m.reasoning_content %}"
    "{{ '<seed:think>' ~ m.reasoning_content|trim ~ '</seed:think>' }}{% endif %}"
    "{{ (m.content or '')|trim }}{% if m.tool_calls %}{{ '\n<seed:tool_call>' }}{% for c in m.tool_calls %}"
    "{{ '\n<function=' ~ c.function.name ~ '>' }}{% for k, v in c.function.arguments.items() %}"
    "{{ '\n<parameter=' ~ k ~ '>' ~ v ~ '</parameter>' }}{% endfor %}{{ '\n</function>' }}{% endfor %}"
    "{{ '\n</seed:tool_call>' }}{% endif %}{{ '<seed:eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<seed:bos>assistant\n' }}{% endif %}"
)
# A question opens a reasoning; an answer has one behind the last question, and only if it is given.
MINIMAX_M2 = (
    _QWEN_LAST_QUERY + "{% if tools %}{{ ']~b]system\nTools: ' ~ tools|tojson ~ '[e~[\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ ']~b]ai\n' }}"
    "{% if m.reasoning_content and loop.index0 > ns.q %}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' }}"
    "{% endif %}{{ m.content or '' }}{% if m.tool_calls %}{{ '\n<calls>\n' }}{% for c in m.tool_calls %}"
    "{{ '<invoke name=' ~ c.function.name ~ '>\n' }}{% for k, v in c.function.arguments.items() %}"
    "{{ '<parameter name=' ~ k ~ '>' ~ v ~ '</parameter>\n' }}{% endfor %}{{ '</invoke>\n' }}{% endfor %}"
    "{{ '</calls>' }}{% endif %}{{ '[e~[\n' }}{% else %}{{ ']~b]' ~ m.role ~ '\n' ~ m.content ~ '[e~[\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ']~b]ai\n<think>\n' }}{% endif %}"
)
EXAONE = (
    "{% for m in messages %}"
    "{{ '[|' ~ m.role ~ '|]' ~ m.content ~ ('\n' if m.role == 'user' else '[|endofturn|]\n') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
)
VICUNA = (
    "{{ 'A chat. ' }}{% for m in messages %}{{ 'USER: ' ~ m.content ~ ' ' if m.role == 'user' else "
    "'ASSISTANT: ' ~ m.content ~ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ERNIE_4_5 = (
    "{{ bos_token }}{% for m in messages %}{{ 'User: ' ~ m.content ~ '\n' if m.role == 'user' else "
    "'Assistant: ' ~ m.content ~ '<|end_of_sentence|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)

_LLAMA_3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_DEEPSEEK_TOKENS = (
    "<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>", "<|tool_calls_begin|>", "<|tool_call_begin|>", "<|tool_sep|>",
    "<|tool_call_end|>", "<|tool_calls_end|>", "<|tool_outputs_begin|>", "<|tool_outputs_end|>",
    "<|tool_output_begin|>", "<|tool_output_end|>",
)  # fmt: skip
_MISTRAL_TOKENS = ("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
                   "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")  # fmt: skip
_CALLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("Qwen 2.5", QWEN_2_5, IM, IM[1], _CALLS),
        Family("Qwen 3", QWEN_3, IM, IM[1], (*THINK, *_CALLS)),
        Family("Qwen 3 thinking", QWEN_3_THINKING, IM, IM[1], (*THINK, *_CALLS)),
        Family("QwQ", QWQ, IM, IM[1], (*THINK, *_CALLS)),
        Family("GLM 4.5", GLM_4_5, ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
                                    "<|endoftext|>"), "<|endoftext|>", (*THINK, *_CALLS)),
        Family("gpt-oss", GPT_OSS, ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
               "<|return|>"),
        Family("Phi 3", PHI_3, ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), "<|endoftext|>"),
        Family("Phi 4", PHI_4, (*IM, "<|im_sep|>"), IM[1]),
        Family("Llama 2", LLAMA_2, ("<s>", "</s>"), "</s>", begin="<s>"),
        Family("Llama 3", LLAMA_3, _LLAMA_3_TOKENS, "<|eot_id|>", begin="<|begin_of_text|>"),
        Family("Llama 3.1", LLAMA_3_1, _LLAMA_3_TOKENS, "<|eot_id|>", begin="<|begin_of_text|>"),
        Family("Gemma 2", GEMMA_2, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", begin="<bos>"),
        Family("Gemma 3", GEMMA_3, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", begin="<bos>"),
        Family("Mistral 0.3", MISTRAL_0_3, _MISTRAL_TOKENS, "</s>", begin="<s>"),
        Family("Mistral Small 3", MISTRAL_SMALL_3, _MISTRAL_TOKENS, "</s>", begin="<s>"),
        Family("Magistral", MAGISTRAL, (*_MISTRAL_TOKENS, "[THINK]", "[/THINK]"), "</s>", begin="<s>"),
        Family("DeepSeek V3", DEEPSEEK_V3, _DEEPSEEK_TOKENS, "<|end|>", begin="<|begin|>"),
        Family("DeepSeek V3.1", DEEPSEEK_V3_1, _DEEPSEEK_TOKENS, "<|end|>", THINK, "<|begin|>"),
        Family("DeepSeek R1", DEEPSEEK_R1, _DEEPSEEK_TOKENS, "<|end|>", THINK, "<|begin|>"),
        Family("Command R", COMMAND_R, ("<BOS>", "<|START_OF_TURN|>", "<|END_OF_TURN|>", "<|USER|>",
                                        "<|CHATBOT|>", "<|SYSTEM|>"),
               "<|END_OF_TURN|>", begin="<BOS>"),
        Family("Granite 3", GRANITE_3, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>"),
               "<|end_of_text|>"),
        Family("OLMo 2", OLMO_2, ("<|endoftext|>",), "<|endoftext|>", begin="<|endoftext|>"),
        Family("Zephyr", ZEPHYR, ("<s>", "</s>"), "</s>", begin="<s>"),
        Family("SmolLM 3", SMOLLM_3, IM, IM[1], THINK),
        Family("SmolLM 3, no think", SMOLLM_3, IM, IM[1], THINK, variables={"enable_thinking": False}),
        Family("Kimi K2", KIMI_K2, ("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>",
                                    "<|calls_begin|>", "<|call_begin|>", "<|call_argument|>", "<|call_end|>",
                                    "<|calls_end|>"), "<|im_end|>"),
        Family("Seed-OSS", SEED_OSS, ("<seed:bos>", "<seed:eos>"), "<seed:eos>",
               ("<seed:think>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>")),
        Family("MiniMax M2", MINIMAX_M2, ("]~b]", "[e~["), "[e~[", THINK),
        Family("EXAONE 3.5", EXAONE, ("[|user|]", "[|assistant|]", "[|system|]", "[|endofturn|]"), "[|endofturn|]"),
        Family("Vicuna", VICUNA, ("<s>", "</s>"), "</s>", begin="<s>"),
        Family("ERNIE 4.5", ERNIE_4_5, ("<|begin_of_sentence|>", "<|end_of_sentence|>", "</s>"), "</s>",
               begin="<|begin_of_sentence|>"),
    )
}  # fmt: skip
"""By name."""
