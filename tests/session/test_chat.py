"""Chat templates render as transformers does, cannot be misused by messages, and always end."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.core.errors import InvalidRequest
from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.messages import ChatContext, ChatMessage

from .sample_tokenizers import BEGIN, END, THINK, TURN, byte_level_raw, wrapped

IM_STYLE = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|turn|>system\\nBe helpful.</s>\\n' }}
    {%- endif %}
    {{- '<|turn|>' + message['role'] + '\\n' + message['content'] + '</s>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}
"""
INSTRUCTION_STYLE = """\
{{ bos_token }}
{% if messages[0]['role'] == 'system' %}
    {% set system = messages[0]['content'] | trim + '\\n\\n' %}
    {% set rest = messages[1:] %}
{% else %}
    {% set system, rest = '', messages %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/...') }}
    {% endif %}
    {% if message['role'] == 'user' %}
[INST] {{ (system if loop.first else '') + message['content'].strip() }} [/INST]
    {% else %}
 {{ message['content'] ~ eos_token }}
    {% endif %}
{% endfor %}
"""
HEADER_STYLE = """\
{{- bos_token }}
{%- set state = namespace(tools=false, count=0) %}
{%- if tools is not none %}{%- set state.tools = true %}{%- endif %}
{%- macro header(role) %}<|turn|>{{ role }}<|turn|>

{% endmacro %}
{%- for message in messages %}
    {%- if message.content == '' %}{% continue %}{% endif %}
    {%- set state.count = state.count + 1 %}
    {{- header(message.role) + message.content | trim + eos_token }}
    {%- generation %}{{ loop.index ~ '/' ~ loop.length ~ ('.' if loop.last) }}{% endgeneration %}
{%- endfor %}
{{- state.count }}{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}
{%- if add_generation_prompt %}{{ header('assistant') }}{% endif -%}
"""
THINKING_STYLE = """\
{% for message in messages %}
{% set content = message.content %}
{% if message.role == 'assistant' and '</think>' in content %}
{% set content = content.split('</think>')[-1].lstrip('\\n') %}
{% endif %}
<|turn|>{{ message.role | upper }}: {{ content }}{{ undefined_thing }}
{% endfor %}
{% if add_generation_prompt %}<think>{% endif %}
"""
STYLES = {
    "im": IM_STYLE,
    "instruction": INSTRUCTION_STYLE,
    "header": HEADER_STYLE,
    "thinking": THINKING_STYLE,
}
CHATS = [
    [ChatMessage("user", "Hello!")],
    [ChatMessage("system", " Be brief. "), ChatMessage("user", "  {{ 7 * 7 }} \u4e2d <b>&\"' ")],
    [
        ChatMessage("user", "What is 2 + 2?"),
        ChatMessage("assistant", "<think>easy</think>\n\n4"),
        ChatMessage("user", "And\nthen {% for %}?"),
    ],
]
USER = [ChatMessage("user", "Hello!")]


def refusal(template: ChatTemplate, messages: list[ChatMessage]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        template.render(messages)
    assert refused.value.field == "chat"
    assert refused.value.__cause__ is None
    return str(refused.value)


@pytest.mark.parametrize("chat", CHATS, ids=["one", "system", "three"])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())
def test_rendering_equals_transformers(style, chat):
    transformers = pytest.importorskip("transformers")
    peer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level_raw(), bos_token=BEGIN, eos_token=END, chat_template=style
    )
    expected = peer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in chat],
        add_generation_prompt=True,
        tokenize=False,
    )
    rendered = ChatTemplate(style, BEGIN, END).render(chat)
    assert rendered.text == expected


def test_tokens_of_a_chat_equal_transformers():
    transformers = pytest.importorskip("transformers")
    peer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level_raw(), bos_token=BEGIN, eos_token=END, chat_template=IM_STYLE
    )
    messages = [{"role": "user", "content": "the lazy dog"}]
    expected = peer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    rendered = ChatTemplate(IM_STYLE, BEGIN, END).render([ChatMessage(**messages[0])])
    assert wrapped(byte_level_raw()).encode_rendered(rendered, begin=False) == expected


CONTROL = (BEGIN, END, TURN, THINK)
HOSTILE = st.lists(
    st.sampled_from(
        [*CONTROL, "<", "|turn|>", "<|tu", "rn|>", "\U000f0000", "\U000f0001", " ", "a"]
    ),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())
@given(content=HOSTILE)
def test_messages_cannot_write_control_tokens(style, content):
    tokenizer = wrapped(byte_level_raw(), chat_template=style)
    template = ChatTemplate(style, BEGIN, END)

    def controls(text: str) -> list[int]:
        rendered = template.render([ChatMessage("user", text)])
        tokens = tokenizer.encode_rendered(rendered, begin=False)
        ids = {byte_level_raw().token_to_id(text) for text in tokenizer._control.values()}
        return [token for token in tokens if token in ids]

    assert controls(f"x{content}x") == controls("harmless")


@pytest.mark.parametrize("cut", ["[1:]", "[:-1]", "[2:]", "[:-2]", "[2:-2]", "[:9]"])
def test_a_template_that_cuts_messages_cannot_be_misled(cut):
    source = "{{ bos_token }}{{ messages[0].content" + cut + " }}{{ eos_token }}"
    template, tokenizer = ChatTemplate(source, BEGIN, END), wrapped(byte_level_raw())
    for content in (TURN, f"a{TURN}", f"{TURN}a", f"{TURN}{TURN}", f"{END}{TURN}{END}"):
        rendered = template.render([ChatMessage("user", content)])
        tokens = tokenizer.encode_rendered(rendered, begin=True)
        silent = [token for token in tokens if tokenizer.is_silent(token)]
        assert silent == [tokenizer.begin_token_id, tokenizer.end_token_id]


def test_messages_are_never_read_as_a_template():
    template = ChatTemplate("{{ messages[0].content }}")
    content = "{{ messages }}{% raw %}{# #}"
    assert template.render([ChatMessage("user", content)]).text == content


def test_a_model_without_a_template_says_to_send_text():
    assert "send text" in refusal(ChatTemplate(""), USER)


@pytest.mark.parametrize("source", ["{% for %}", "{{", "{% nothing %}", "{{ 1 | nothing }}"])
def test_a_broken_template_says_to_send_text(source):
    assert "send text" in refusal(ChatTemplate(source), USER)


def test_the_templates_own_refusal_is_passed_on_in_one_line():
    template = ChatTemplate("{{ raise_exception('No\\n  system role! ' ~ 'x' * 10000) }}")
    message = refusal(template, USER)
    assert "No system role! xxx" in message
    assert len(message) < 300
    assert "\n" not in message


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ none.thing.other }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% macro twice(n) %}{% if n %}{{ twice(n - 1) ~ twice(n - 1) }}{% endif %}{% endmacro %}"
        "{{ twice(60) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) | list %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% for a in range(10000000) %}{% endfor %}",
        "{% for a in range(1000) %}{{ 'x' * 100000 }}{% endfor %}",
    ],
)
def test_a_template_that_fails_or_never_ends_is_one_sentence(source):
    message = refusal(ChatTemplate(source), USER)
    assert message.startswith("the model's chat template ")
    assert "\n" not in message


def test_budgets_are_for_each_rendering():
    source = "{% for a in range(60000) %}{% endfor %}{{ messages[0].content }}"
    template = ChatTemplate(source)
    assert {template.render(USER).text for _ in range(12)} == {"Hello!"}


def test_templates_read_tools_documents_and_options():
    source = (
        "{{ tools | tojson }}{{ documents[0].text }}{{ enable_thinking }}{{ other is defined }}"
    )
    context = ChatContext(({"name": "f"},), ({"text": "read me"},), {"enable_thinking": False})
    rendered = ChatTemplate(source).render(USER, context)
    assert rendered.text == '[{"name": "f"}]read meFalseFalse'
    assert ChatTemplate("{{ tools is none }}").render(USER).text == "True"


def test_tools_documents_and_options_cannot_write_control_tokens():
    source = "{{ tools[0].name }}: {{ documents[0].text }}: {{ enable_thinking }}"
    context = ChatContext(({"name": TURN},), ({"text": END},), {"enable_thinking": THINK})
    rendered = ChatTemplate(source).render(USER, context)
    words = [rendered.text[start:end] for start, end in rendered.quoted]
    assert words == [TURN, END, THINK]


def test_an_empty_chat_is_refused():
    assert "at least one message" in refusal(ChatTemplate(IM_STYLE), [])


def test_templates_read_the_clock_that_they_are_given():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2031, 2, 3))
    assert template.render(USER).text == "03 Feb 2031"


def test_tokens_that_the_model_lacks_are_undefined():
    template = ChatTemplate("{{ bos_token is defined }}{{ eos_token }}", "", END)
    assert template.render(USER).text == f"False{END}"


def test_pad_and_unknown_token_are_there_where_the_model_has_them():
    source = "{{ pad_token }}{{ unk_token is defined }}"
    assert ChatTemplate(source, pad_token="<pad>").render(USER).text == "<pad>False"
    assert ChatTemplate(source, unknown_token="<unk>").render(USER).text == "True"


def test_a_template_for_tools_serves_chats_with_tools():
    template = ChatTemplate("plain", tool_source="{{ tools[0].name }}")
    with_tools = ChatContext(tools=({"name": "add"},))
    assert template.render(USER).text == "plain"
    assert template.render(USER, with_tools).text == "add"
    assert ChatTemplate("plain").render(USER, with_tools).text == "plain"
    assert ChatTemplate("", tool_source="tools").render(USER, with_tools).text == "tools"
    assert "send text" in refusal(ChatTemplate("", tool_source="tools"), USER)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{{ messages[0].content }}", "one  two"),
        ("{{ messages[0].content | trim }}", "one  two"),
        ("{{ '[' + messages[0].content + ']' }}", "[one  two]"),
        ("{% for part in messages[0].content %}({{ part.text }}){% endfor %}", "(one )( two)"),
        (
            "{% set c = messages[0].content %}{% if c is string %}{{ c }}{% else %}"
            "{% for part in c if part['type'] == 'text' %}{{ part['text'] | trim }}|{% endfor %}"
            "{% endif %}",
            "one|two|",
        ),
    ],
)
def test_parts_reach_a_template_that_shows_them_and_are_joined_for_another(source, shown):
    assert ChatTemplate(source).render([ChatMessage("user", ("one ", " two"))]).text == shown
