"""Chat templates that try to get out of the sandbox or to eat the machine.

The escapes follow public advisories of Jinja and of those who render models' templates; each row names its.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import pytest
from calls import PATIENCE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3 * PATIENCE)]

ESCAPES = {
    "CVE-2016-10745 str.format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "CVE-2019-10906 str.format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': messages}) }}",
    "CVE-2024-56326 format passed to a filter": (
        "{{ ['{0.__class__.__init__.__globals__}']|map('format', messages)|list }}"
        "{% set f = '{0.__class__}'.format %}{{ f(messages) }}"
    ),
    "CVE-2025-27516 format through attr": "{{ ('{0.__class__.__mro__}'|attr('format'))(messages) }}",
    "CVE-2025-27516 through map": "{{ ['{0.__class__}']|map(attribute='format')|first }}",
    "CVE-2024-34359 subclasses": "{{ ''.__class__.__base__.__subclasses__() }}",
    "subclasses by attr": "{{ ((''|attr('__class__'))|attr('__base__'))|attr('__subclasses__') }}",
    "subclasses by map": "{{ ['']|map(attribute='__class__.__base__')|list }}",
    "subclasses by item": "{{ ''['__class__'] }}",
    "globals of cycler": "{{ cycler.__init__.__globals__.os.popen('touch {marker}').read() }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].popen('touch {marker}').read() }}",
    "globals of joiner": "{{ joiner.__init__.__globals__ }}",
    "globals of namespace": "{{ namespace.__init__.__globals__ }}",
    "globals of raise_exception": "{{ raise_exception.__globals__['__builtins__'] }}",
    "globals of strftime_now": "{{ strftime_now.__globals__.__builtins__.open('{marker}', 'w') }}",
    "the template itself": "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context }}",
    "a macro's internals": "{% macro m() %}{% endmacro %}{{ m._environment }}{{ m.__init__.__globals__ }}",
    "a generator's frame": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "frames of select": (
        "{{ (messages|select).gi_frame.f_builtins.__import__('os').system('touch {marker}') }}"
    ),
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "extends": "{% extends '/etc/passwd' %}",
    "changing the messages": "{{ messages[0].update({'role': 'x'}) }}{{ messages.append(1) }}",
    "clearing the messages": "{% set _ = messages.clear() %}",
}
BOMBS = {
    "a long string": "{{ 'a' * 10**10 }}",
    "doubling": (
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
    ),
    "doubling lists": (
        "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
    ),
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 9 ** 999999999 }}",
    "powers of powers": "{{ 9 ** 64 ** 64 ** 64 ** 64 }}",
    "a product": (
        "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}"
    ),
    "a width": "{{ '%9999999999d' % 1 }}",
    "a width in format": "{{ '{:9999999999}'.format(1) }}",
    "many places": "{% set s = 'a' * 1000000 %}{{ ('{0}' * 100000).format(s) }}",
    "many places with %": "{% set s = 'a' * 1000000 %}{{ ('%(a)s' * 100000) % {'a': s} }}",
    "the filter replace": "{{ ('a' * 10000000)|replace('a', 'b' * 10000) }}",
    "the method replace": "{{ ('a' * 10000000).replace('a', 'b' * 10000) }}",
    "replace of nothing": "{{ ('a' * 10000000).replace('', 'b' * 10000) }}",
    "the filter join": "{{ range(90000)|join('b' * 1000000) }}",
    "the method join": "{{ ('b' * 1000000).join('a' * 1000000) }}",
    "tabs": "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
    "translate": "{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}",
    "indented JSON": "{{ [[[[[[1] * 1000] * 10]]]]|tojson(indent=9999999) }}",
    "padding": "{{ 'a'.ljust(9999999999) }}",
    "a recursive macro": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "many long strings": (
        "{% set x = [] %}{% for i in range(150) %}{% set _ = x.append('a' * 16000000 ~ i) %}{% endfor %}"
    ),
    "a long macro": (
        "{% macro m() %}{% for i in range(9999) %}{{ 'a' * 1000000 }}{% endfor %}{% endmacro %}{{ m() }}"
    ),
    "long searches": (
        "{% set s = 'a' * 16000000 %}{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}"
    ),
    "pieces": "{{ ('a ' * 8000000).split() }}",
    "lists of lists": (
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
        "{{ n.x | tojson }}"
    ),
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}
# Runs in a process of its own, since what is looked for would take the tests down with it.
RENDER = """
import sys
from predictor.chat.template import ChatTemplate
from predictor.errors import PredictorError
try:
    text = ChatTemplate(sys.stdin.read(), "", "").render([{"role": "user", "content": "Hi"}])
    print("rendered", text[:5000])
except PredictorError as error:
    print("refused", str(error)[:300])
"""
MEMORY = 1200 * 2**20
GIVEN_AWAY = ("<class", "__builtins__", "root:x:", "<module", "built-in function", "'os'", "bound method")


def rendered(source: str) -> str:
    """What becomes of a template, within bounds of memory and time."""
    result = subprocess.run(
        [sys.executable, "-c", RENDER],
        input=source,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert result.returncode == 0, result.stderr[-500:]
    return result.stdout


def test_no_template_escapes(tmp_path: Any, record: Any) -> None:
    marker = tmp_path / "escaped"
    refused = 0
    for name, source in ESCAPES.items():
        outcome = rendered(source.replace("{marker}", str(marker)))
        assert not marker.exists(), name
        assert not any(leak in outcome for leak in GIVEN_AWAY if outcome.startswith("rendered")), (
            name,
            outcome,
        )
        refused += outcome.startswith("refused")
    record(
        "Escapes from the template sandbox",
        len(ESCAPES),
        len(ESCAPES),
        0,
        f"{refused} refused with a message, {len(ESCAPES) - refused} rendered to nothing of use",
    )


def test_no_template_eats_the_machine(record: Any) -> None:
    outcomes = {name: rendered(source) for name, source in BOMBS.items()}
    # An allocation that failed was refused by the limit on the test's process and not by the sandbox.
    survived = [
        name
        for name, outcome in outcomes.items()
        if outcome.startswith("refused") and not outcome.strip().endswith(("messages:", "MemoryError"))
    ]
    assert survived == list(BOMBS), {name: outcomes[name][:200] for name in BOMBS.keys() - set(survived)}
    record(
        "Templates that eat time or memory",
        len(BOMBS),
        len(BOMBS),
        0,
        f"all refused below {MEMORY >> 20} MiB",
    )
