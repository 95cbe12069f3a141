"""The commands of a chat in the terminal, as people know them from `ollama run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from predictor.client import saved_chats
from predictor.client.conversation import Conversation, harmless
from predictor.client.endpoint import ClientError

HELP = '''/set system TEXT            set the system prompt
/set parameter NAME VALUE   set a sampling field; without a value, leave it to the server
/set think, nothink         let the model think before it answers, or not
/set verbose, quiet         show figures below each answer, or don't
/set history, nohistory     keep what is typed for the next chats, or don't
/show                       show the model, the system prompt and the parameters
/clear                      forget the conversation
/history                    show the conversation
/save NAME, /load NAME      keep the conversation, go on with one that was kept
/help, /?                   show this
/bye                        leave, as does Ctrl-D

"""                         begins and ends a message of several lines
Alt-Enter                   begins a line
Ctrl-C                      stops an answer'''

_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_INTEGERS = ("top_k", "seed", "max_tokens", "repeat_last_n")
# What Ollama calls them.
_OTHER_NAMES = {"num_predict": "max_tokens"}
_STOP = "stop"
_EFFORT = "reasoning_effort"
PARAMETERS = (*_NUMBERS, *_INTEGERS, _STOP)


@dataclass(slots=True)
class Session:
    """What commands change.

    Attributes:
        conversation: with the model.
        console: for what they show.
        verbose: whether answers are followed by their figures.
        keeps_history: whether typed lines are kept for later chats.
    """

    conversation: Conversation
    console: Console
    verbose: bool = True
    keeps_history: bool = True

    def say(self, text: str, style: str = "dim") -> None:
        """Print a line of ours."""
        self.console.print(Text(harmless(text), style))


def obey(line: str, session: Session) -> bool:
    """Carry a command out.

    Returns:
        False where the chat is to end.
    """
    command, _, argument = line.partition(" ")
    if command in ("/bye", "/exit"):
        return False
    found = _COMMANDS.get(command)
    if found is None:
        session.say(f"there is no command {command}; /help lists them", "red")
        return True
    try:
        found(session, argument.strip())
    except ClientError as error:
        session.say(error.message, "red")
    return True


def _set(session: Session, argument: str) -> None:
    what, _, value = argument.partition(" ")
    value = value.strip()
    fields = session.conversation.fields
    match what:
        case "system":
            session.conversation.system = value.strip('"') or None
            session.say(f"system prompt: {session.conversation.system or 'none'}")
        case "parameter":
            _set_parameter(session, value)
        case "think":
            fields.pop(_EFFORT, None)
            session.say("the model may think")
        case "nothink":
            fields[_EFFORT] = "none"
            session.say("the model is asked not to think")
        case "verbose" | "quiet":
            session.verbose = what == "verbose"
            session.say(f"figures are {'shown' if session.verbose else 'hidden'}")
        case "history" | "nohistory":
            session.keeps_history = what == "history"
            session.say(f"what you type is {'kept' if session.keeps_history else 'not kept'}")
        case _:
            raise ClientError(
                "use /set system, parameter, think, nothink, verbose, quiet, history or nohistory"
            )


def _set_parameter(session: Session, argument: str) -> None:
    name, _, text = argument.partition(" ")
    name = _OTHER_NAMES.get(name, name)
    if name not in PARAMETERS:
        raise ClientError(f"there is no parameter {name!r}; there are {', '.join(PARAMETERS)}")
    fields = session.conversation.fields
    if not text.strip():
        fields.pop(name, None)
        session.say(f"{name} is the server's")
        return
    fields[name] = _value(name, text.strip())
    session.say(f"{name} is {orjson.dumps(fields[name]).decode()}")


def _value(name: str, text: str) -> Any:
    if name == _STOP:
        return [text.strip('"')]
    try:
        return int(text) if name in _INTEGERS else float(text)
    except ValueError:
        kind = "a whole number" if name in _INTEGERS else "a number"
        raise ClientError(f"{name} must be {kind}, not {text!r}") from None


def _show(session: Session, _: str) -> None:
    conversation = session.conversation
    session.say(f"model: {conversation.model} at {conversation.endpoint.url}")
    session.say(f"system prompt: {conversation.system or 'none'}")
    for name, value in conversation.fields.items():
        session.say(f"{name}: {orjson.dumps(value).decode()}")


def _clear(session: Session, _: str) -> None:
    session.conversation.messages.clear()
    session.say("the conversation is forgotten")


def _history(session: Session, _: str) -> None:
    for message in session.conversation.messages:
        session.console.print(Text(message["role"], "bold"), Text(harmless(message["content"])))


def _save(session: Session, name: str) -> None:
    session.say(f"saved as {saved_chats.save(session.conversation, name)}")


def _load(session: Session, name: str) -> None:
    if not name:
        session.say(f"saved chats: {', '.join(saved_chats.names()) or 'none'}")
        return
    saved_chats.load(session.conversation, name)
    session.say(f"loaded {name}: {len(session.conversation.messages)} messages")


def _help(session: Session, _: str) -> None:
    session.say(HELP)


_COMMANDS: Mapping[str, Callable[[Session, str], None]] = {
    "/set": _set,
    "/show": _show,
    "/clear": _clear,
    "/history": _history,
    "/save": _save,
    "/load": _load,
    "/help": _help,
    "/?": _help,
}
COMMANDS = ("/bye", *_COMMANDS)
