"""`chat_templates`: templates in the styles that popular models use, in our own words, rendered by transformers."""

import jinja2

from .case import Case
from .render import render

SYSTEM = {"role": "system", "content": "You sell manga.  "}
HELLO = {"role": "user", "content": "  Hello, 漫画 <b>\"now\"</b> & it's 5 > 3\n"}
ANSWER = {"role": "assistant", "content": "Yes.\n"}
THINKING = {"role": "assistant", "content": "<think>\nwhich one?\n</think>\n\nVolume 3 & 4."}
MORE = {"role": "user", "content": "And 第2巻?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "stock", "arguments": {"title": "よつばと！", "volume": 3}}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "{\"left\": 2}"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "first"}, {"type": "text", "text": " second "}]}
TOOL = {
    "type": "function",
    "function": {
        "name": "stock",
        "description": "How many are left, e.g. 在庫 <n> & 'more'",
        "parameters": {"type": "object", "properties": {"title": {"type": "string"}, "volume": {"type": "integer"}}, "required": ["title"]},
    },
}

CONVERSATIONS = {
    "one": [HELLO],
    "system": [SYSTEM, HELLO],
    "turns": [SYSTEM, HELLO, ANSWER, MORE],
    "two_turns": [HELLO, THINKING, MORE, ANSWER, HELLO],
    "tools": [SYSTEM, HELLO, CALL, RESULT, ANSWER],
    "parts": [PARTS],
    "wrong_order": [ANSWER, HELLO],
    "empty": [],
}

# Blocks stand at line starts with indentation in most of them: trim_blocks and lstrip_blocks decide the white space.
TEMPLATES = {
    "chatml": """{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
<|im_start|>system
A default line.<|im_end|>
    {% endif %}
<|im_start|>{{ message.role }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}""",
    "llama3": """{%- set system = '' -%}
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = messages[0].content | trim -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{{- bos_token -}}
<|start_header_id|>system<|end_header_id|>

{{ system if system else 'Knowledge until 2024.' }}<|eot_id|>
{%- for message in messages -%}
    {%- if message.role in ['user', 'assistant'] and not message.get('tool_calls') -%}
        <|start_header_id|>{{ message.role }}<|end_header_id|>

{{ message.content | trim }}<|eot_id|>
    {%- elif message.tool_calls is defined -%}
        {%- set call = message.tool_calls[0].function -%}
        <|start_header_id|>assistant<|end_header_id|>

{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>
    {%- else -%}
        <|start_header_id|>ipython<|end_header_id|>

{{ message.content | tojson }}<|eot_id|>
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif -%}""",
    "mistral": """{%- if messages[0]['role'] == 'system' %}
    {%- set preface = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate: user, assistant, user, ...') }}
    {%- endif %}
    {%- if turn['role'] == 'user' %}
        {%- if loop.last and preface is defined %}
            {{- '[INST] ' + preface + '\\n\\n' + turn['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' ~ turn['content'] ~ '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + turn['content'].strip() + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "gemma": """{{ bos_token }}
{%- if messages and messages[0]['role'] == 'system' -%}
    {{ raise_exception('There is no system role') }}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}""",
    "qwen_tools": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content.rstrip() + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nSignatures:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages and messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_user=-1, tools_seen=0) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}
    {%- if m.role == 'tool' %}{% set ns.tools_seen = ns.tools_seen + 1 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {%- if '</think>' in content and loop.index0 < ns.last_user %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' + content }}
        {%- for call in m.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) ~ '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}
{{- '' if ns.tools_seen == 0 else '<!-- ' ~ ns.tools_seen ~ ' -->' }}""",
    "reversed_search": """{%- set ns = namespace(found=none, count=0) -%}
{%- for message in messages[::-1] -%}
    {%- set i = (messages | length - 1) - loop.index0 -%}
    {%- if message.role == 'user' and message.content is string and not message.content.startswith('And') -%}
        {%- if ns.found is none -%}{%- set ns.found = i -%}{%- endif -%}
    {%- endif -%}
    {%- set ns.count = ns.count + 1 -%}
{%- endfor -%}
{{ ns.count }}:{{ ns.found }}|
{%- for message in messages[:-1] -%}
    {{ loop.index }}/{{ loop.length }}={{ message.role | upper }};
{%- else -%}
    nothing before;
{%- endfor -%}
{{ messages[-1:] | map(attribute='role') | join(',') }}
{%- if messages and messages[-1].content is string and messages[-1].content.endswith('\\n') %} ends with a line{% endif %}""",
    "loop_controls": """{% for message in messages %}
  {% if message.role == 'system' %}{% continue %}{% endif %}
  {% if loop.index > 3 %}
[cut]
    {% break %}
  {% endif %}
{{ loop.index0 }} {{ message.role.title() }}{# a comment #}: {{ (message.content or 'nothing') if message.content is not iterable or message.content is string else message.content | length }}
{% endfor %}""",
    "macro": """{%- macro header(role, tail='') -%}
<{{ role }}{{ ' ' ~ tail if tail }}>
{%- endmacro -%}
{%- for message in messages -%}
    {{ header(message.role, tail=loop.index|string if not loop.first else '') }}
    {%- if message.content is string -%}
        {{ message.content.replace('\\n', ' ').strip().split(' ')[0] }}
    {%- endif -%}
    {%- for key, value in message.items() | sort if key not in ['role', 'content'] -%}
        [{{ key }}:{{ value is mapping }}]
    {%- endfor -%}
{%- endfor -%}
{{ {'b': 1, 'a': [true, none, 1.5, 'é<&']} | tojson }}{{ messages | length | string | length }}""",
    "indented_tools": """{%- if tools is defined and tools is not none and tools | length > 0 -%}
Tools: {{ tools | tojson(indent=2) }}
{% endif -%}
{%- set names = messages | selectattr('role', 'equalto', 'user') | list -%}
{%- set others = messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list -%}
{{ names | length }} from the user, others {{ others | join(', ') }} {{ names | length > 0 }}
{{ [3, 1, 2] | sort | first }} {{ 'a,b,c'.split(',') | last }} {{ 'abc'[1:] }} {{ 'abc'[-1] }} {{ 7 // 2 }} {{ 7 % 4 }} {{ missing | default('none given') }}""",
    "strict_roles": """{% if not messages %}{{ raise_exception("no messages") }}{% endif %}
{% for m in messages %}
{% if m['role'] not in ('system', 'user', 'assistant') %}{{ raise_exception('unknown role: ' + m['role']) }}{% endif %}
{{ m['role'][0] | upper }}> {% if m['content'] is string %}{{ m['content'] | replace('<', '[') }}{% else %}{{ m['content'] | map(attribute='text') | join('+') }}{% endif %}

{% endfor %}
{{ 'A>' if add_generation_prompt else eos_token }}""",
}


def make(out):
    case = Case(out, "chat_templates", kind="templates", bos_token="<s>", eos_token="</s>", tools=[TOOL], templates=[])
    for name, template in TEMPLATES.items():
        rendered = []
        for label, messages in CONVERSATIONS.items():
            for tools, add in ((None, True), (None, False), ([TOOL], True)):
                if tools is None and label == "tools" and not add:
                    continue
                try:
                    got = render(template, messages, tools, add, bos_token="<s>", eos_token="</s>")
                except (jinja2.exceptions.UndefinedError, TypeError):
                    # Only Python's own error text: nothing that another implementation must repeat.
                    continue
                rendered.append({"conversation": label, "tools": tools is not None, "add_generation_prompt": add, **got})
        assert len(rendered) >= 9, (name, len(rendered))
        case.info["templates"].append({"name": name, "template": template, "rendered": rendered})
    case.info["conversations"] = CONVERSATIONS
    case.write()
