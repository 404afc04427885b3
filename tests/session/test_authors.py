"""Texts keep their authors through whatever a template does with them, and are the texts that they were."""

import functools
import itertools
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from outrider_server.core.errors import InvalidRequest
from outrider_server.session.text import authors
from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.messages import ChatMessage, ToolCall
from outrider_server.session.text.tokenizer import RenderedText

EXACT = [
    "'[[' + c + ']]'",
    "c + '[[' + c",
    "'[[' ~ c ~ 7 ~ none ~ ']]' ~ undefined_thing",
    "'[[%s]]%d' % (c, 3)",
    "'[[%(x)s]]' % {'x': c}",
    "c * 2 ~ '[['",
    "'[[{}]]{x}'.format(c, x=c)",
    "'[[{0[x]}]]'.format({'x': c})",
    "'[[%s]]' | format(c)",
    "'[[x]]'.replace('x', c)",
    "('[[' ~ c) | replace('a', '((') | replace('', '-')",
    "c.replace('aa', '[[').replace('\\n', ']]')",
    "'[['.join([c, ']]', c])",
    "[c, '[[', 1, c] | join(', ')",
    "messages | map(attribute='content') | join('[[')",
    "messages | join('[[', attribute='content')",
    "('[[' ~ c).split('a') | join(']]')",
    "('[[' ~ c).split() | join(']]')",
    "('[[' ~ c).split('a', 1) | join(']]')",
    "('[[' ~ c).split(sep='a')[-1] ~ ']]'",
    "('[[' ~ c).rsplit('a', 1) | join(']]')",
    "('[[' ~ c).rsplit(none, 1) | join(']]')",
    "('[[' ~ c).splitlines() | join(']]')",
    "(c ~ '[[').splitlines(true) | join",
    "(c ~ '[[').partition('a') | join(']]')",
    "(c ~ '[[').rpartition('\\n') | join(']]')",
    "('[[' ~ c ~ ']]').strip('[a')",
    "('[[' ~ c ~ ' ').strip() ~ (c ~ '[[').lstrip('ab')",
    "(' [[' ~ c ~ ']]').rstrip('b]') | trim",
    "(c ~ '[[') | trim('a')",
    "('a[[' ~ c).removeprefix('a') ~ (c ~ '[[').removesuffix('[')",
    "('[[' ~ c ~ ']]')[1:-1] ~ (c ~ '[[')[::-1] ~ c[:3] ~ ('[[' ~ c)[-1]",
    "('[[' ~ c ~ ']]') | reverse",
    "('[[' ~ c ~ ']]') | list | join('|')",
    "c | first ~ '[[' ~ c | last",
    "('x[[' ~ c) | upper ~ (c ~ 'X[[') | lower",
    "('x[[' ~ c).center(40) ~ c.ljust(30) ~ ']]'.rjust(9)",
    "('[[' ~ c) | indent(4, true) ~ ('[[\\n' ~ c) | indent('..')",
    "('[[' ~ c) | string ~ ']]' | string",
    "('[[' ~ c) | default('x') ~ nothing | default(c) ~ nothing | default('[[')",
    "[c, '[['] | random if false else c",
    "{'[[': c} | tojson",
    "{'k': '[[', c: {'x': 1, 'y': [c, none, 1.5]}} | tojson(indent=2)",
    "{'y': c, 'x': '[['} | tojson(sort_keys=true, separators=(',', ':'))",
    "{'k': '[[' ~ c ~ ']]', 'l': '\\n\"[['} | tojson(ensure_ascii=true)",
    "('[[' ~ c) if c in ('[[' ~ c) and c == c else 'different'",
    "('[[' ~ c) | safe if false else c | length ~ c.find('a') ~ c.count('b')",
    "('[[' ~ c) | attr('upper')() | attr('lower')()",
    "dict(x=c).x ~ namespace(x='[[' ~ c).x ~ [c][0] ~ (c, '[[')[1]",
    "[[c, '[[']] | batch(2) | first | first | join",
    "[c, '[['] | select('string') | list | sort | join",
    "('[[' ~ c).expandtabs(3) ~ c.zfill(4) ~ ('[[' ~ c).translate({93: 'x'})",
    "strftime_now('[[' ~ c ~ '%d')",
    "'[[' | safe ~ ('[[' | e)",
]
COARSE = [
    "'[[%r' % c",
    "[c, '[[']",
    "{'[[': c}.items()",
    "{'[[': c} | string | trim",
    "{'[[': c} | pprint",
    "('[[' ~ c) | e",
    "('[[' ~ c) | safe",
    "(('[[' ~ c) | safe) + '[['",
    "('[[<' ~ c) | e | trim | e",
    "('[[' | safe).join([c])",
    "('[[%s' | safe) % c",
    "('[[' ~ c) | urlencode",
    "('[[' ~ c) | title",
    "('[[' ~ c) | wordwrap(5)",
    "('<b>[[' ~ c) | striptags",
    "(c ~ '[[').encode().decode()",
    "namespace(x=c ~ '[[')",
    "{'x': c ~ '[['} | xmlattr",
]
BLOCKS = [
    "{% for x in c %}{{ x }}[[{% endfor %}",
    "{% set x %}[[{{ c }}]]{% endset %}{{ x }}{{ x | trim }}",
    "{% macro m(x) %}[[{{ x }}{% endmacro %}{{ m(c) ~ m('[[') }}",
    "{% macro m() %}[[{{ caller() }}{% endmacro %}{% call m() %}{{ c }}]]{% endcall %}",
    "{% for m in messages %}[[{{ m.content.split('a')[-1].strip() + ']]'.join(['', c]) }}{% endfor %}",
    "{% filter upper %}[[{{ c }}{% endfilter %}",
    "{% generation %}[[{{ c }}{% endgeneration %}]]",
    "{% set ns = namespace(x='[[') %}{% for i in [1, 2] %}{% set ns.x = ns.x + c %}{% endfor %}{{ ns.x }}",
    "{% for x in messages recursive %}[[{{ x.content }}{% if loop.depth < 2 %}{{ loop([x]) }}{% endif %}"
    "{% endfor %}",
]
TEMPLATES = [
    *(f"{{% set c = messages[0].content %}}{{{{ {expression} }}}}" for expression in EXACT),
    *("{% set c = messages[0].content %}" + block for block in BLOCKS),
]
COARSE_TEMPLATES = [
    f"{{% set c = messages[0].content %}}{{{{ {expression} }}}}" for expression in COARSE
]
CONTENTS = [
    "aabab",
    " b\naa\t ab\r\nb \u00a0a ",
    "",
    "a",
    "b\"a\\b'a/b",
    "\u4e2da\U0001f600b\u00e9\u0130\u00dfa",
    "ba%s{}{0}a{{ c }}{% a %}",
    "\U00020000a\U00020001b",
    "<b>a&amp;b</b>",
]

AUTHORS = [("user", "quoted"), ("assistant", "spoken")]


def peer_text(source: str, content: str, role: str) -> str:
    """What transformers renders."""
    peers = pytest.importorskip("transformers.utils.chat_template_utils")
    template = peers._compile_jinja_template(source)
    return template.render(messages=[{"role": role, "content": content}])


def inside(rendered: RenderedText, spans: str) -> str:
    return "".join(rendered.text[start:end] for start, end in getattr(rendered, spans))


def outside(rendered: RenderedText) -> str:
    cuts = sorted([(0, 0), *rendered.quoted, *rendered.spoken])
    ends = [*(start for start, _ in cuts[1:]), len(rendered.text)]
    return "".join(rendered.text[cut[1] : end] for cut, end in zip(cuts, ends, strict=True))


@pytest.mark.parametrize("template", [*TEMPLATES, *COARSE_TEMPLATES])
def test_a_text_is_the_one_that_transformers_renders(template):
    for content in CONTENTS:
        rendered = ChatTemplate(template).render([ChatMessage("user", content)])
        assert rendered.text == peer_text(template, content, "user"), content
        assert type(rendered.text) is str


@pytest.mark.parametrize(("role", "spans"), AUTHORS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_an_author_wrote_and_nothing_else_is_in_its_spans(template, role, spans):
    """The author writes a and b alone, the template brackets."""
    for letters in itertools.product("ab \n", repeat=3):
        content = "aa" + "".join(letters) + "b"
        rendered = ChatTemplate(template).render([ChatMessage(role, content)])
        assert not set(outside(rendered).lower()) & set("ab"), content
        assert not set(inside(rendered, spans)) & set("[]"), content
        if role == "assistant":
            assert not rendered.quoted


@pytest.mark.parametrize(
    ("expression", "text", "quoted"),
    [
        ("('ba' ~ c).split('a') | join('|')", "b|b", (2, 3)),
        ("('b  ' ~ c).split() | join('|')", "b|b", (2, 3)),
        ("('b\\n' ~ c).splitlines() | join('|')", "b|b", (2, 3)),
        ("('ba' ~ c).partition('a') | join('|')", "b|a|b", (4, 5)),
        ("('ba' ~ c).rsplit('a', 1) | join('|')", "b|b", (2, 3)),
        ("('b' ~ c).removeprefix('b')", "b", (0, 1)),
        ("(c ~ 'b').removesuffix('b')", "b", (0, 1)),
        ("('xb' ~ c ~ 'bx').strip('x')", "bbb", (1, 2)),
        ("('xb' ~ c).lstrip('x')", "bb", (1, 2)),
        ("(c ~ 'bx').rstrip('x')", "bb", (0, 1)),
        ("('ab' ~ c).replace('a', 'bb')", "bbbb", (3, 4)),
        ("('bb' ~ c)[1:]", "bb", (1, 2)),
        ("{'k': 'b' ~ c} | tojson", '{"k": "bb"}', (8, 9)),
    ],
)
def test_a_piece_of_a_text_keeps_the_authors_of_its_place(expression, text, quoted):
    """Template and user write the same letter."""
    template = ChatTemplate(f"{{% set c = messages[0].content %}}{{{{ {expression} }}}}")
    assert template.render([ChatMessage("user", "b")]) == RenderedText(text, (quoted,))


def test_an_assistant_said_what_it_says_and_thinks_and_its_callers_all_else():
    call = ToolCall("c", {"d": "d"}, id="e")
    message = ChatMessage("assistant", "a", "b", name="f", tool_calls=(call,))
    shown = ["content", "reasoning_content", "thinking", "name", "tool_calls"]
    template = ChatTemplate(
        f"{{% set m = messages[0] %}}{{% for name in {shown} %}}{{{{ m[name] | tojson }}}}{{% endfor %}}"
    )
    rendered = template.render([message])
    assert inside(rendered, "spoken") == "abb"
    assert {*"cdef"} <= {rendered.text[start:end] for start, end in rendered.quoted}


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("template", COARSE_TEMPLATES)
def test_where_authors_cannot_be_followed_the_template_loses(template, role):
    for content in ("\U00020003\U00020003", "\U00020003 \U00020003\n\U00020003'\U00020003"):
        rendered = ChatTemplate(template).render([ChatMessage(role, content)])
        assert "\U00020003" not in outside(rendered)


STEPS = st.sampled_from(
    [
        " | trim",
        " | upper",
        " | reverse",
        " | tojson",
        " | e",
        " | safe",
        " | string",
        " | title",
        " | capitalize",
        " | indent(2)",
        " | replace('q', '[[')",
        " | replace('[', c)",
        " | list | join",
        " | list | join(c)",
        " | list | string",
        " | wordwrap(3)",
        " | truncate(5, true)",
        ".split('q') | join(']')",
        ".split() | last",
        ".splitlines()[0]",
        ".partition('q')[2]",
        ".strip('[q')",
        ".replace('q', '', 1)",
        ".format(c)",
        ".encode().decode()",
        ".casefold()",
        ".swapcase()",
        "[1:]",
        "[::-2]",
        " ~ '[%s'",
        " ~ c",
        " + '[{}'",
        " % c",
        " * 2",
    ]
)


@given(
    steps=st.lists(STEPS, max_size=5), content=st.text('qz[ \n<&"\\\u00df\U00020002', max_size=8)
)
def test_any_chain_of_operations_gives_the_text_and_keeps_users_out_of_the_template(steps, content):
    expression = functools.reduce(lambda value, step: f"({value}{step})", steps, "('[' ~ c)")
    template = f"{{% set c = messages[0].content %}}{{{{ {expression} }}}}"
    try:
        expected = peer_text(template, content, "user")
    except Exception:
        with pytest.raises(InvalidRequest):
            ChatTemplate(template).render([ChatMessage("user", content)])
        return
    rendered = ChatTemplate(template).render([ChatMessage("user", content)])
    assume(" object at 0x" not in expected)
    assert rendered.text == expected
    assert not set(outside(rendered).lower()) & {"q", "z", "\u00df", "\U00020002"}


TWO_AUTHORS = st.text(st.sampled_from([authors.USER, authors.ASSISTANT, "x", " ", "\n", "\u2028"]))


@given(TWO_AUTHORS, st.integers(1, 8))
def test_words_are_found_across_the_pieces_of_a_search(shadow: str, piece: int) -> None:
    author = authors.USER
    at_once = re.finditer(f"{author}(?:[{author}\\s]*{author})?", shadow)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(authors, "PIECE", piece)
        assert authors.spans_of(shadow, author) == tuple(word.span() for word in at_once)


@given(st.text(st.one_of(st.characters(max_codepoint=255), st.characters())), st.integers(1, 8))
def test_all_but_white_space_has_an_author(text: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(authors, "PIECE", piece)
        shadow = authors.shadow_of(authors.written(text, authors.ASSISTANT))
    assert shadow == re.sub(r"\S", authors.ASSISTANT, text)
