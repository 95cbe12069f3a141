"""Chat templates: what models' templates need, and what a hostile one must not get."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.chat.budget import MAX_TEXT
from predictor.chat.template import ChatTemplate
from predictor.errors import InvalidRequest, StartupError

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
USER = {"role": "user", "content": "Hi"}


def render(source: str, messages: list[Any] | None = None, **extra: Any) -> str:
    return ChatTemplate(source, "<s>", "</s>").render([USER] if messages is None else messages, **extra).text


def test_smollm2_template_adds_its_system_prompt_and_the_generation_prompt() -> None:
    assert render(SMOLLM2) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    conversation = [{"role": "system", "content": "Be brief."}, USER]
    assert render(SMOLLM2, conversation, add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_names_and_filters_of_hugging_face_are_there() -> None:
    assert render("{{ bos_token }}{{ eos_token }}{{ tools is none }}") == "<s></s>True"
    assert render("{{ tools | tojson }}", tools=[{"n": "<é>"}]) == '[{"n": "<é>"}]'
    assert render("{{ {'b': 1, 'a': [2]} | tojson(indent=2) }}") == '{\n  "b": 1,\n  "a": [\n    2\n  ]\n}'
    assert render("{{ strftime_now('%Y') }}").isdigit()
    assert render("{% generation %}kept{% endgeneration %}") == "kept"
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{{ date }}", date="1 May") == "1 May"


def test_block_lines_leave_no_blank_lines() -> None:
    assert render("  {% if true %}\nyes\n  {% endif %}\n") == "yes\n"


def test_loop_variables_survive_the_step_counter() -> None:
    source = "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}"
    assert render(source, [USER, USER]) == "1/2False 2/2True "


def test_messages_are_unicode() -> None:
    with pytest.raises(InvalidRequest, match="messages must be valid Unicode"):
        render(SMOLLM2, [{"role": "user", "content": "\ud800"}])


def test_the_templates_own_refusal_reaches_the_user() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    with pytest.raises(InvalidRequest, match="unsafe"):
        render("{{ messages[0].update({'role': 'x'}) }}", messages)
    # Lists are the template's own copies, and some templates keep what they have seen in one.
    assert render("{% set _ = messages.append(1) %}{{ messages.pop(0).role }}", messages) == "user"
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


@pytest.mark.parametrize("source", ["{% for x in", "{{ x | nosuchfilter }}", "{{" + "(" * 3000])
def test_a_template_that_cannot_be_compiled_says_what_to_do(source: str) -> None:
    with pytest.raises(StartupError, match="--chat-template FILE"):
        ChatTemplate(source, "", "")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ messages[0].content.__class__() }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% for i in range(99) %}{{ m(n + 1) }}{% endfor %}{% endmacro %}{{ m(0) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 9 ** 9999999 }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (9999999999, 1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ 'a'.ljust(9999999999) }}",
        "{{ 'a' | indent(9999999999, true) }}",
        "{{ 1 / 0 }}",
        "{{ ('a' * 10000000) | replace('a', 'b' * 10000) }}",
        "{{ ('a' * 10000000).replace('', 'b' * 10000) }}",
        "{{ range(90000) | join('b' * 1000000) }}",
        "{{ ('b' * 1000000).join('a' * 1000000) }}",
        "{{ ('{0}' * 100000).format('a' * 1000000) }}",
        "{{ ('%(a)s' * 100000) % {'a': 'a' * 1000000} }}",
        "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
        "{{ 'a'.translate({97: 'b'}) }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ [[1]] | tojson(indent=9999999) }}",
    ],
)
def test_a_hostile_or_broken_template_ends_in_an_error(source: str) -> None:
    with pytest.raises(InvalidRequest, match="the model's chat template fails"):
        render(source)


HUGE = "{% set s = 'a' * 10000000 %}"
TURNS = HUGE + "{% for i in range(99999) %}"
NESTED = "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "source",
    [
        # Few steps that each handle much.
        TURNS + "{% if 'b' in s %}{% endif %}{% endfor %}",
        TURNS + "{% if s[1:] == s[:-1] %}{% endif %}{% endfor %}",
        TURNS + "{% if s < s ~ i %}{% endif %}{% endfor %}",
        TURNS + "{% if s is lower %}{% endif %}{% endfor %}",
        TURNS + "{% if s | upper is upper %}{% endif %}{% endfor %}",
        TURNS + "{% set t = s.find('b') + s.count('b') %}{% endfor %}",
        TURNS + "{% set t = s.replace('b', 'c') %}{% endfor %}",
        TURNS + "{% set t = s | replace('b', 'c') %}{% endfor %}",
        TURNS + "{% set t = s | length | string ~ s %}{% endfor %}",
        TURNS + "{% set t = [s, s] | tojson %}{% endfor %}",
        TURNS + "{% set t = '%s' % s %}{% endfor %}",
        TURNS + "{% set t = '{}'.format(s) %}{% endfor %}",
        TURNS + "{% if s in [i ~ s, 'b'] %}{% endif %}{% endfor %}",
        TURNS + "{% set t = [s, 'b'] | sort %}{% endfor %}",
        "{% set x = [1] * 1000000 %}{% for i in range(99999) %}{% set t = x | list %}{% endfor %}",
        "{% set x = [1] * 1000000 %}{% for i in range(99999) %}{% set t = x[1:] %}{% endfor %}",
        "{% set x = [1] * 1000000 %}{% for i in range(99999) %}{% set t = x.pop(0) %}{% endfor %}",
        "{% set x = [1] * 1000000 %}{% for i in range(99999) %}{% if x == x[:] %}{% endif %}{% endfor %}",
        "{% for i in range(99999) %}" + "{% set x = [1, 2, 3] %}" * 2000 + "{% endfor %}",
        "{% macro m() %}" + "{% set x = [1, 2, 3] %}" * 2000 + "{% endmacro %}"
        "{% for i in range(99999) %}{{ m() }}{% endfor %}",
        # Texts that are each small enough, but not together.
        HUGE + "{% set x = [] %}{% for i in range(150) %}{% set _ = x.append(s ~ i) %}{% endfor %}",
        HUGE + "{% macro m() %}{% for i in range(999) %}{{ s }}{% endfor %}{% endmacro %}{{ m() }}",
        HUGE + "{% set x %}{% for i in range(999) %}{{ s }}{% endfor %}{% endset %}",
        HUGE + "{{ s ~ s ~ s ~ s }}",
        "{% set s = 'a ' * 5000000 %}{{ s.split() | length }}",
        "{% set s = 'a ' * 5000000 %}{{ s.split(' ') | length }}",
        "{{ ('\\n' * 9000000).splitlines() | length }}",
        "{{ ('a' * 9000000) | list | length }}",
        # A list that holds itself twice over and over is long when it is written out.
        NESTED + "{{ n.x }}",
        NESTED + "{{ n.x ~ '' }}",
        NESTED + "{{ n.x | string }}",
        NESTED + "{{ n.x | tojson }}",
        NESTED + "{{ '%s' % [n.x] }}",
        NESTED + "{{ '{}'.format(n.x) }}",
        NESTED + "{% set m = n.x[:] %}" + NESTED + "{{ m == n.x }}",
        "{% set x = [] %}{% set _ = x.append(x) %}{{ x | tojson }}",
    ],
)
def test_work_is_paid_for_by_what_it_handles(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"it (takes|handles|builds) .*more than"):
        render(source)


def test_a_long_conversation_stays_within_the_budget() -> None:
    conversation = [{"role": role, "content": "word " * 400} for role in ("user", "assistant") * 500]
    assert len(render(SMOLLM2, conversation)) > 1000 * 2000


def test_ordinary_joins_and_replacements_work() -> None:
    source = (
        "{{ messages | join('-', attribute='role') }} {{ ['a', 1] | join(', ') }} "
        "{{ 'a.b'.replace('.', '!') }} {{ 'aXa' | replace('a', 'b', 1) }} "
        "{{ '{} {x}'.format(1, x='y') }} {{ '%s-%d' % ('a', 2) }} "
        "{{ '+'.join(['a', 'b']) }} {% filter upper %}up{% endfilter %}"
    )
    assert render(source) == "user a, 1 a!b bXa 1 y a-2 a+b UP"


def test_output_up_to_the_limit_is_fine() -> None:
    assert len(render("{{ messages[0].content }}", [{"role": "user", "content": "x" * MAX_TEXT}])) == MAX_TEXT


def test_a_failed_rendering_leaves_the_next_its_full_budget() -> None:
    template = ChatTemplate(
        "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}ok", "", ""
    )
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="steps"):
            template.render([USER], n=2000)
        assert template.render([USER], n=1000).text == "ok"


def test_whether_a_rendered_prompt_has_its_bos_token() -> None:
    source = "{% if bos %}{{ bos_token }}{% endif %}{{ messages[0].content }}"
    template = ChatTemplate(source, "<s>", "</s>")
    assert template.writes_bos(template.render([USER], bos=True))
    assert not template.writes_bos(template.render([USER], bos=False))
    # What a user writes is no BOS token.
    assert not template.writes_bos(template.render([{"role": "user", "content": "<s>Hi"}], bos=False))
    assert not ChatTemplate(source, "", "").writes_bos(template.render([USER], bos=True))
